#include "pack_rows.h"

#include <cstring>
#include <string>

#include "errors.h"

namespace qconv {

void provide(Memory &memory, std::int64_t elements, std::size_t element_bytes) {
    if (elements > max_elements) {
        throw_invalid("elements of the packed weight", std::to_string(elements),
                      "it must be at most " + std::to_string(max_elements));
    }
    const std::size_t bytes = static_cast<std::size_t>(elements) * element_bytes;
    if (memory.data() != nullptr && memory.bytes() == bytes) return;
    memory = Memory(bytes);
    std::memset(memory.data(), 0, bytes);
}

void append_bit(const std::uint8_t *levels, std::int64_t count, std::uint8_t *joined) {
    if (levels == nullptr) {
        for (std::int64_t i = 0; i < count; ++i)
            joined[i] = static_cast<std::uint8_t>(joined[i] + joined[i]);
        return;
    }
    for (std::int64_t i = 0; i < count; ++i)
        joined[i] = static_cast<std::uint8_t>(joined[i] + joined[i] + levels[i]);
}

void join_bits(const std::uint8_t *levels, std::int64_t distance, int bits, std::int64_t count, std::uint8_t *joined) {
    std::memcpy(joined, levels + (bits - 1) * distance, static_cast<std::size_t>(count));
    for (int b = bits - 2; b >= 0; --b)
        append_bit(levels + b * distance, count, joined);
}

} // namespace qconv
