#include "tools/npy.h"

#include <fmt/format.h>

#include <array>
#include <bit>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <fstream>
#include <optional>
#include <set>

#include "tools/errors.h"
#include "tools/files.h"

namespace qconv::tools {
namespace fs = std::filesystem;
namespace {

static_assert(std::endian::native == std::endian::little, "tensors are read and written as they lie in memory");

constexpr std::string_view kMagic("\x93NUMPY", 6);
constexpr std::size_t kLongestHeader = 1 << 16;

struct Header {
    std::string descr;
    bool fortran_order = false;
    std::vector<int64_t> shape;
};

/// The header's Python dictionary: three keys, in any order.
class HeaderParser {
public:
    explicit HeaderParser(std::string_view text) : text_(text) {}

    /// Nothing when the text is not such a dictionary.
    std::optional<Header> parse() {
        Header header;
        std::set<std::string> keys;
        if (!take("{")) return {};
        while (!take("}")) {
            const auto key = quoted();
            if (!key || !keys.insert(*key).second || !take(":")) return {};
            bool good = false;
            if (*key == "descr") {
                const auto value = quoted();
                good = value.has_value();
                if (good) header.descr = *value;
            } else if (*key == "fortran_order") {
                header.fortran_order = take("True");
                good = header.fortran_order || take("False");
            } else if (*key == "shape") {
                good = take_shape(header.shape);
            }
            if (!good || !separated("}")) return {};
        }
        take(""); // skips blanks
        return keys.size() == 3 && text_.empty() ? std::optional(header) : std::nullopt;
    }

private:
    bool take(std::string_view token) {
        text_.remove_prefix(std::min(text_.find_first_not_of(" \n"), text_.size()));
        if (!text_.starts_with(token)) return false;
        text_.remove_prefix(token.size());
        return true;
    }
    /// A comma after an entry, which the last one need not have.
    bool separated(std::string_view close) {
        if (take(",")) return true;
        take("");
        return text_.starts_with(close);
    }
    std::optional<std::string> quoted() {
        const char *quote = take("'") ? "'" : take("\"") ? "\"" : nullptr;
        if (!quote) return {};
        const auto end = text_.find(quote);
        if (end == std::string_view::npos) return {};
        std::string word(text_.substr(0, end));
        text_.remove_prefix(end + 1);
        return word;
    }
    bool take_shape(std::vector<int64_t> &shape) {
        if (!take("(")) return false;
        while (!take(")")) {
            take(""); // skips blanks
            int64_t size = 0;
            const auto [end, error] = std::from_chars(text_.data(), text_.data() + text_.size(), size);
            if (error != std::errc() || size < 0) return false;
            text_.remove_prefix(static_cast<std::size_t>(end - text_.data()));
            shape.push_back(size);
            if (!separated(")")) return false;
        }
        return true;
    }

    std::string_view text_;
};

/// Bytes of the data, or nothing when they do not fit a 64-bit size.
std::optional<uint64_t> data_bytes(const std::vector<int64_t> &shape) {
    uint64_t bytes = sizeof(float);
    for (const int64_t size : shape) {
        if (__builtin_mul_overflow(bytes, static_cast<uint64_t>(size), &bytes)) return {};
    }
    return bytes;
}

} // namespace

std::string shown_shape(std::span<const int64_t> shape) {
    return fmt::format("({}{})", fmt::join(shape, ", "), shape.size() == 1 ? "," : "");
}

Tensor read_npy(const fs::path &path) {
    const auto fail = [&](const std::string &what) { return InputError(fmt::format("{}: {}", path.string(), what)); };
    std::error_code error;
    const bool regular = fs::is_regular_file(path, error);
    if (!regular && fs::exists(path, error)) throw fail("is not an ordinary file");
    std::ifstream stream(path, std::ios::binary);
    if (!stream) throw fail(fmt::format("cannot read it: {}", std::strerror(errno)));

    std::array<char, 8> start{};
    stream.read(start.data(), start.size());
    if (stream.gcount() != start.size() || std::string_view(start.data(), 6) != kMagic) {
        throw fail("is not a .npy file (it does not begin with \\x93NUMPY)");
    }
    const int version = static_cast<unsigned char>(start[6]);
    if (version < 1 || version > 3) throw fail(fmt::format("is .npy version {}; 1 to 3 are known", version));
    const std::size_t length_bytes = version == 1 ? 2 : 4;
    uint32_t length = 0;
    stream.read(reinterpret_cast<char *>(&length), static_cast<std::streamsize>(length_bytes));
    if (!stream || length > kLongestHeader) throw fail("is truncated or damaged in its header");
    std::string text(length, '\0');
    stream.read(text.data(), static_cast<std::streamsize>(length));
    const auto header = stream ? HeaderParser(text).parse() : std::nullopt;
    if (!header) throw fail("is truncated or damaged in its header");

    if (header->descr != "<f4") {
        throw fail(fmt::format("holds '{}'; it must hold '<f4' (float32, little-endian; numpy: astype('<f4'))",
                               header->descr));
    }
    if (header->fortran_order) throw fail("is in Fortran order; it must be in C order (numpy: ascontiguousarray)");
    const auto bytes = data_bytes(header->shape);
    const uint64_t begin = start.size() + length_bytes + length;
    const uint64_t present = fs::file_size(path) - begin;
    const std::string shape = shown_shape(header->shape);
    if (!bytes) throw fail(fmt::format("shape {} is larger than any memory", shape));
    if (present != *bytes) {
        throw fail(fmt::format("shape {} needs {} bytes of data, the file holds {}: it is {}", shape, *bytes, present,
                               present < *bytes ? "truncated" : "too long"));
    }
    Tensor tensor{header->shape, std::vector<float>(*bytes / sizeof(float))};
    stream.read(reinterpret_cast<char *>(tensor.data.data()), static_cast<std::streamsize>(*bytes));
    if (!stream) throw fail("reading it failed");
    return tensor;
}

void add_npy(FileSet &files, const fs::path &path, std::span<const int64_t> shape, std::span<const float> data) {
    std::string header = fmt::format("{{'descr': '<f4', 'fortran_order': False, 'shape': {}, }}", shown_shape(shape));
    // Version 1.0: the data begins at a multiple of 64, after a newline.
    constexpr std::size_t kFixed = kMagic.size() + 4;
    header.resize((kFixed + header.size() + 1 + 63) / 64 * 64 - kFixed - 1, ' ');
    header += '\n';
    const auto length = static_cast<uint16_t>(header.size());
    std::string start(kMagic);
    start += {'\x01', '\x00', static_cast<char>(length & 0xff), static_cast<char>(length >> 8)};
    const std::array<std::string_view, 3> pieces = {
        start, header, std::string_view(reinterpret_cast<const char *>(data.data()), data.size_bytes())};
    files.add(path, pieces);
}

} // namespace qconv::tools
