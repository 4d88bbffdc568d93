// Memory that dies when read or written outside its bounds.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace qconv::test {

/// Pages between two inaccessible ones, reused for many buffers: each is placed flush with the start or the end, so
/// that the first byte outside is an access violation on that side. The other side is filled with a pattern to check.
class GuardedArena {
public:
    explicit GuardedArena(size_t capacity_bytes);
    ~GuardedArena();
    GuardedArena(const GuardedArena &) = delete;
    GuardedArena &operator=(const GuardedArena &) = delete;

    enum class Edge { Start, End };
    /// Uninitialised memory for `bytes` bytes at a multiple of `alignment`. The buffer given before is void afterwards.
    void *place(size_t bytes, size_t alignment, Edge edge);
    /// The same for floats, at their own alignment only.
    float *place(std::span<const float> values, Edge edge);
    /// Offset, from the buffer, of the first byte of the pattern around it that was overwritten; 0 if none was.
    std::ptrdiff_t damage() const;

private:
    unsigned char *begin_ = nullptr; // first accessible byte
    size_t capacity_ = 0;
    size_t mapped_ = 0;
    unsigned char *buffer_ = nullptr;
    size_t bytes_ = 0;
};

} // namespace qconv::test
