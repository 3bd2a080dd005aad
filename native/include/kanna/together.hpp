// Work shared out over threads, none of which may end the process.
#pragma once

#include <algorithm>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace kanna {

constexpr int64_t MOST_THREADS = 256;

// Runs loop() here and on up to `threads` - 1 threads more; each takes its share from a counter of the caller's, so that
// where the machine starts fewer threads, the others do what is left. What one of them throws is thrown again here,
// once all have ended.
template <class Loop>
void together(int64_t threads, const Loop& loop) {
    std::exception_ptr thrown;
    std::mutex guard;
    auto caught = [&] {
        try {
            loop();
        } catch (...) {
            const std::lock_guard<std::mutex> lock(guard);
            if (!thrown) thrown = std::current_exception();
        }
    };
    std::vector<std::thread> pool;
    try {
        for (int64_t t = 1; t < std::min(threads, MOST_THREADS); ++t) pool.emplace_back(caught);
    } catch (...) {
        // The threads that did start are enough.
    }
    caught();
    for (std::thread& thread : pool) thread.join();
    if (thrown) std::rethrow_exception(thrown);
}

}  // namespace kanna
