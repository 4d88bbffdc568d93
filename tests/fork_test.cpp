// Processes that fork while layers run: nothing waits for a thread that stayed behind.
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "qconv/qconv.h"
#include "support/catch.h"
#include "support/layer_case.h"

namespace qconv::test {
namespace {

constexpr int kChildren = 200;
constexpr int kBusyThreads = 3;
constexpr auto kPatience = std::chrono::seconds(20); // of a child's few milliseconds, on a machine with other work

/// The exit status; -1 after a signal, -2 if it hung and was ended.
int wait_for(pid_t child) {
    const auto end = std::chrono::steady_clock::now() + kPatience;
    int status = 0;
    while (waitpid(child, &status, WNOHANG) == 0) {
        if (std::chrono::steady_clock::now() > end) {
            kill(child, SIGKILL);
            waitpid(child, &status, 0);
            return -2;
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST_CASE("fork: children of a busy process compute, make layers and exit", "[fork]") {
    REQUIRE(qconv_register_generic_kernels() == QCONV_OK);
    REQUIRE(qconv_set_num_threads(2) == QCONV_OK);
    const Shape shape{64, 48, 3, 1, 1, 1, 1, 1, 2, 300, "some work"};
    const LayerCase c(shape, pairs()[0], 0.5f, Data::Random, 7);
    const LayerPtr layer = c.create(nullptr, nullptr);
    REQUIRE(layer != nullptr);
    const auto run = [&](const qconv_layer *which, std::vector<float> &y) {
        y.assign(static_cast<size_t>(c.y_size()), -7.0f);
        return qconv_layer_forward(which, c.x().data(), shape.batch, shape.width, y.data(), nullptr, 0) == QCONV_OK;
    };
    std::vector<float> expected;
    REQUIRE(run(layer.get(), expected));

    std::atomic<bool> stop{false};
    std::vector<std::thread> busy;
    for (int i = 0; i < kBusyThreads; ++i) {
        busy.emplace_back([&] {
            std::vector<float> y;
            while (!stop) {
                // Locks of all kinds: the pool's, the registry's, the workspaces'.
                run(layer.get(), y);
                const LayerPtr own = c.create(nullptr, nullptr);
                qconv_register_generic_kernels();
                qconv_cpu_supports("sse41", nullptr);
            }
        });
    }
    int hung = 0, failed = 0;
    for (int i = 0; i < kChildren; ++i) {
        const pid_t child = fork();
        REQUIRE(child >= 0);
        if (child == 0) {
            // A thread of its own, whose handle may be that of one of the parent's.
            std::thread([] { std::this_thread::yield(); }).detach();
            std::vector<float> y;
            const LayerPtr own = i % 2 == 0 ? c.create(nullptr, nullptr) : nullptr;
            const bool good = run(own ? own.get() : layer.get(), y) &&
                              std::memcmp(y.data(), expected.data(), y.size() * sizeof(float)) == 0;
            // Every other one leaves by way of the destructors.
            i % 4 < 2 ? std::exit(good ? 0 : 1) : std::_Exit(good ? 0 : 1);
        }
        const int status = wait_for(child);
        hung += status == -2;
        failed += status != 0;
    }
    stop = true;
    for (std::thread &thread : busy)
        thread.join();
    CHECK(hung == 0);
    CHECK(failed == 0);
    qconv_set_num_threads(1);
}

} // namespace
} // namespace qconv::test
