// Workspaces of calls that bring none.
#pragma once

#include <cstddef>
#include <mutex>
#include <vector>

#include "fork.h"
#include "memory.h"

namespace qconv {

/// One workspace for each call that runs at the same time, of whatever layer; kept between calls while any layer lives.
class WorkspacePool {
public:
    /// The process's one. Never destroyed: layers may come and go with other static objects.
    static WorkspacePool &shared();
    static const AcrossFork across_fork;

    /// At least `bytes`. Allocates only when no idle one is large enough.
    Memory take(std::size_t bytes);
    void give_back(Memory memory) noexcept;

    /// Keeps the workspaces while it lives; the last one frees them, so that the allocator may be replaced then.
    class User {
    public:
        User();
        User(const User &) = delete;
        User &operator=(const User &) = delete;
        ~User();
    };

private:
    std::mutex mutex_;
    std::vector<Memory> idle_;
    std::size_t taken_ = 0;
    std::size_t users_ = 0;
};

/// A workspace for one call: the caller's, which is checked, or one of the pool.
class WorkspaceLease {
public:
    WorkspaceLease(void *given, std::size_t given_bytes, std::size_t bytes);
    WorkspaceLease(const WorkspaceLease &) = delete;
    WorkspaceLease &operator=(const WorkspaceLease &) = delete;
    ~WorkspaceLease();

    void *data() const { return given_ != nullptr ? given_ : owned_.data(); }

private:
    void *given_;
    Memory owned_;
};

} // namespace qconv
