#include "pack_rows.h"

#include <bit>
#include <cstring>
#include <string>

#include "clones.h"
#include "errors.h"

namespace qconv {
namespace {

QCONV_CPU_CLONES void join_bytes(const std::uint8_t *__restrict levels, std::int64_t distance, std::int64_t count,
                                 std::uint8_t *__restrict joined) {
    for (std::int64_t i = 0; i < count; ++i) {
        unsigned byte = levels[i + 7 * distance];
        for (std::int64_t b = 6; b >= 0; --b)
            byte = static_cast<std::uint8_t>(byte + byte + levels[i + b * distance]);
        joined[i] = static_cast<std::uint8_t>(byte);
    }
}

} // namespace

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

void join_neighbours(const std::uint8_t *levels, std::int64_t count, std::uint8_t *joined) {
    static_assert(std::endian::native == std::endian::little);
    for (std::int64_t i = 0; i < count; i += 8) {
        std::uint64_t eight; // the first in the lowest byte
        std::memcpy(&eight, levels + i, sizeof eight);
        // Byte b is multiplied by 2^b on its way to the highest byte; no sum on the way reaches 256.
        joined[i] = static_cast<std::uint8_t>(eight * 0x0102040810204080U >> 56);
    }
}

void join_bits(const std::uint8_t *levels, std::int64_t distance, int bits, std::int64_t count, std::uint8_t *joined) {
    if (bits == 8) return join_bytes(levels, distance, count, joined);
    std::memcpy(joined, levels + (bits - 1) * distance, static_cast<std::size_t>(count));
    for (int b = bits - 2; b >= 0; --b) {
        const std::uint8_t *lower = levels + b * distance;
        for (std::int64_t i = 0; i < count; ++i)
            joined[i] = static_cast<std::uint8_t>(joined[i] + joined[i] + lower[i]);
    }
}

} // namespace qconv
