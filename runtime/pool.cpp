#include "pool.h"

#include <algorithm>
#include <cstdint>
#include <new>
#include <string>
#include <utility>

#include "errors.h"

namespace qconv {

WorkspacePool &WorkspacePool::shared() {
    static WorkspacePool *const instance = new WorkspacePool;
    return *instance;
}

const AcrossFork WorkspacePool::across_fork{
    [] { shared().mutex_.lock(); },
    [] { shared().mutex_.unlock(); },
    [] { new (&shared().mutex_) std::mutex; },
};

WorkspacePool::User::User() {
    WorkspacePool &pool = shared();
    const std::lock_guard lock(pool.mutex_);
    ++pool.users_;
}

WorkspacePool::User::~User() {
    WorkspacePool &pool = shared();
    const std::lock_guard lock(pool.mutex_);
    if (--pool.users_ == 0) pool.idle_.clear();
}

Memory WorkspacePool::take(std::size_t bytes) {
    Memory memory;
    {
        const std::lock_guard lock(mutex_);
        // Room for everything that may come back, so that giving back cannot fail.
        idle_.reserve(idle_.size() + taken_ + 1);
        // The smallest that is large enough, else the largest, to be replaced.
        const auto better = [bytes](const Memory &a, const Memory &b) {
            const bool fits = a.bytes() >= bytes;
            if (fits != (b.bytes() >= bytes)) return fits;
            return fits ? a.bytes() < b.bytes() : a.bytes() > b.bytes();
        };
        const auto best = std::min_element(idle_.begin(), idle_.end(), better);
        if (best != idle_.end()) {
            memory = std::move(*best);
            idle_.erase(best);
        }
        ++taken_;
    }
    try {
        if (memory.bytes() < bytes) {
            memory = Memory(); // before the new one is there, for both might not fit
            memory = Memory(bytes);
        }
    } catch (...) {
        const std::lock_guard lock(mutex_);
        --taken_;
        throw;
    }
    return memory;
}

void WorkspacePool::give_back(Memory memory) noexcept {
    const std::lock_guard lock(mutex_);
    idle_.push_back(std::move(memory));
    --taken_;
}

WorkspaceLease::WorkspaceLease(void *given, std::size_t given_bytes, std::size_t bytes) : given_(given) {
    if (given == nullptr) {
        owned_ = WorkspacePool::shared().take(bytes);
        return;
    }
    if (reinterpret_cast<std::uintptr_t>(given) % memory_alignment != 0) {
        throw Error(QCONV_INVALID_ARGUMENT, "workspace is not aligned to 64 bytes");
    }
    if (given_bytes < bytes) {
        throw Error(QCONV_WORKSPACE_TOO_SMALL,
                    "workspace_bytes is " + std::to_string(given_bytes) + "; this call needs " + std::to_string(bytes));
    }
}

WorkspaceLease::~WorkspaceLease() {
    if (given_ == nullptr) WorkspacePool::shared().give_back(std::move(owned_));
}

} // namespace qconv
