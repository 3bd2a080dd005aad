#include "kanna/factors.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <vector>

#include "kanna/dispatch.hpp"
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

// Rows of one part of the work, and columns that they meet at a time: what is read again and again stays in a cache.
constexpr int64_t PART = 64, COLUMNS = 512;

// The panel's own rows, a triangle of columns [first, last).
bool factor_panel(double* a, int64_t first, int64_t last) {
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
    return true;
}

// In place: the lower triangle A becomes L with A = L L'. Right-looking, panel by panel; what a value loses, it loses in
// the order of columns, so that neither threads nor vectors change it.
bool cholesky(double* a, int64_t n, int threads) {
    const Kernels& kernels = current_kernels();
    std::vector<double> across(static_cast<size_t>(PANEL * n));  // the panel, transposed: rows of the update run along it
    for (int64_t first = 0; first < n; first += PANEL) {
        const int64_t last = std::min(first + PANEL, n), terms = last - first;
        if (!factor_panel(a, first, last)) return false;
        double triangle[PANEL][PANEL] = {};  // transposed as well
        for (int64_t j = first; j < last; ++j)
            for (int64_t k = first; k < j; ++k) triangle[k - first][j - first] = row_of(a, j)[k];
        // Rows below the panel: solve against its triangle, then subtract its part from what is left.
        const int64_t parts = (n - last + PART - 1) / PART;
        parallel(parts, threads, [&](int64_t part) {
            for (int64_t i = last + part * PART; i < std::min(last + (part + 1) * PART, n); ++i) {
                double* row = row_of(a, i) + first;
                for (int64_t j = 0; j < terms; ++j) {
                    row[j] /= row_of(a, first + j)[first + j];
                    for (int64_t k = j + 1; k < terms; ++k) row[k] -= row[j] * triangle[j][k];
                    across[j * n + i] = row[j];
                }
            }
        });
        parallel(parts, threads, [&](int64_t part) {
            const int64_t begin = last + part * PART, end = std::min(begin + PART, n);
            for (int64_t j = last; j < end; j += COLUMNS)
                for (int64_t i = begin; i < end; ++i) {
                    const int64_t together = std::min<int64_t>(4, end - i);
                    double* rows[4];
                    const double* factors[4];
                    for (int64_t r = 0; r < 4; ++r) {
                        double* row = row_of(a, i + std::min(r, together - 1));
                        rows[r] = row + j;
                        factors[r] = row + first;
                    }
                    const double* panel = across.data() + j;
                    const int64_t shared = together < 4 ? 0 : std::clamp<int64_t>(i + 1 - j, 0, COLUMNS);
                    if (shared > 0) kernels.subtract_products(rows, factors, panel, n, terms, shared);
                    for (int64_t r = 0; r < together; ++r)
                        for (int64_t c = shared; c < std::clamp<int64_t>(i + r + 1 - j, 0, COLUMNS); ++c)
                            for (int64_t k = 0; k < terms; ++k) rows[r][c] -= factors[r][k] * panel[k * n + c];
                    i += together - 1;
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
    std::vector<double> diagonal(static_cast<size_t>(n));
    for (int64_t j = 0; j < n; ++j) diagonal[j] = row_of(a.data(), j)[j];
    for (int64_t p = 0; p < n; ++p) {
        const int64_t i = n - 1 - p;  // L[i][n - 1 - q] = R[p][q]
        const double* row = row_of(a.data(), i);
        for (int64_t q = 0; q < p; ++q) m[p * n + q] = 0.0f;
        m[p * n + p] = static_cast<float>(diagonal[i] * diagonal[i]);
        for (int64_t j = i - 1; j >= 0; --j) m[p * n + n - 1 - j] = static_cast<float>(row[j] / diagonal[j]);
    }
    return true;
}

}  // namespace kanna
