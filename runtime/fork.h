// What becomes of locks and threads in a forked child, which has no thread but the one that called fork().
#pragma once

namespace qconv {

/// Of something with a lock that another thread might hold at the fork. While one is held, only
/// those after it in fork.cpp's list are taken.
struct AcrossFork {
    void (*before)();    ///< makes what is made at first use, and takes the lock: what it guards is then whole
    void (*in_parent)(); ///< releases it
    void (*in_child)();  ///< makes the lock anew: some tell by the thread who may release them
};

/// Has fork() do so from now on; once a process.
bool install_fork_handlers() noexcept;

} // namespace qconv
