#include "pool.h"

#include <cstdint>
#include <string>
#include <utility>

#include "errors.h"

namespace qconv {

Memory WorkspacePool::take(std::size_t bytes) {
    Memory memory;
    {
        const std::lock_guard lock(mutex_);
        // Room for everything that may come back, so that giving back cannot fail.
        idle_.reserve(idle_.size() + taken_ + 1);
        if (!idle_.empty()) {
            memory = std::move(idle_.back());
            idle_.pop_back();
        }
        ++taken_;
    }
    try {
        if (memory.bytes() < bytes) memory = Memory(bytes);
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

WorkspaceLease::WorkspaceLease(WorkspacePool &pool, void *given, std::size_t given_bytes, std::size_t bytes)
    : pool_(pool), given_(given) {
    if (given == nullptr) {
        owned_ = pool.take(bytes);
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
    if (given_ == nullptr) pool_.give_back(std::move(owned_));
}

} // namespace qconv
