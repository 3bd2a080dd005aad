#include "kanna/factors.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <vector>

#include "kanna/together.hpp"

namespace kanna {
namespace {

constexpr int64_t PANEL = 64;

// Runs work(i) for i in [0, count), shared out by a counter; who does what changes nothing in the results.
template <class Work>
void parallel(int64_t count, int threads, const Work& work) {
    if (threads <= 1 || count < 4) {
        for (int64_t i = 0; i < count; ++i) work(i);
        return;
    }
    std::atomic<int64_t> next{0};
    auto loop = [&] {
        for (int64_t i = next++; i < count; i = next++) work(i);
    };
    together(std::min<int64_t>(threads, count), loop);
}

// Row i of a lower triangle whose rows follow one another.
double* row_of(double* a, int64_t i) { return a + i * (i + 1) / 2; }

// In place: the lower triangle A becomes L with A = L L'. Right-looking, panel by panel.
bool cholesky(double* a, int64_t n, int threads) {
    std::vector<double> across(static_cast<size_t>(PANEL * n));  // the panel, transposed: rows of the update run along it
    for (int64_t first = 0; first < n; first += PANEL) {
        const int64_t last = std::min(first + PANEL, n);
        for (int64_t j = first; j < last; ++j) {
            double* row = row_of(a, j);
            for (int64_t k = first; k < j; ++k) row[j] -= row[k] * row[k];
            if (!(row[j] > 0)) return false;
            row[j] = std::sqrt(row[j]);
            const double inverse = 1 / row[j];
            for (int64_t i = j + 1; i < last; ++i) {
                double* other = row_of(a, i);
                for (int64_t k = first; k < j; ++k) other[j] -= other[k] * row[k];
                other[j] *= inverse;
            }
        }
        // Rows below the panel: solve against its triangle, then subtract its part from what is left.
        const int64_t below = n - last;
        parallel((below + 15) / 16, threads, [&](int64_t part) {
            for (int64_t i = last + part * 16; i < std::min(last + (part + 1) * 16, n); ++i) {
                double* row = row_of(a, i);
                for (int64_t j = first; j < last; ++j) {
                    const double* panel = row_of(a, j);
                    for (int64_t k = first; k < j; ++k) row[j] -= row[k] * panel[k];
                    row[j] /= panel[j];
                    across[(j - first) * n + i] = row[j];
                }
            }
        });
        parallel((below + 15) / 16, threads, [&](int64_t part) {
            for (int64_t i = last + part * 16; i < std::min(last + (part + 1) * 16, n); ++i) {
                double* row = row_of(a, i);
                for (int64_t k = first; k < last; ++k) {
                    const double factor = row[k];
                    const double* along = across.data() + (k - first) * n;
                    for (int64_t j = last; j <= i; ++j) row[j] -= factor * along[j];
                }
            }
        });
    }
    return true;
}

}  // namespace

bool feedback_factors(const float* h, int64_t n, const int32_t* order, float* m, int threads) {
    // H = R R' with R upper is the Cholesky factor of H read backwards.
    std::vector<double> a(static_cast<size_t>(n * (n + 1) / 2));
    for (int64_t i = 0; i < n; ++i)
        for (int64_t j = 0; j <= i; ++j) row_of(a.data(), i)[j] = h[int64_t(order[n - 1 - i]) * n + order[n - 1 - j]];
    if (!cholesky(a.data(), n, threads)) return false;
    for (int64_t p = 0; p < n; ++p)
        for (int64_t q = 0; q < n; ++q) {
            const int64_t i = n - 1 - p, j = n - 1 - q;  // L[i][j] = R[p][q]
            const double diagonal = row_of(a.data(), j)[j];
            const double wanted = q > p ? row_of(a.data(), i)[j] / diagonal : (q == p ? diagonal * diagonal : 0.0);
            m[p * n + q] = static_cast<float>(wanted);
        }
    return true;
}

}  // namespace kanna
