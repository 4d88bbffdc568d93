// A fuzzer's bytes, consumed from the front as numbers; zeros when they run out.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>

namespace qconv::fuzz {

class Bytes {
public:
    Bytes(const uint8_t *data, size_t size) : data_(data), left_(size) {}

    size_t left() const { return left_; }

    template <typename T>
    T any() {
        T value{};
        const size_t taken = std::min(left_, sizeof value);
        std::memcpy(&value, data_, taken);
        data_ += taken, left_ -= taken;
        return value;
    }
    /// low..high, both included; not more than 65,536 values.
    int64_t range(int64_t low, int64_t high) {
        const int64_t values = high - low + 1;
        return low + (values <= 256 ? any<uint8_t>() : any<uint16_t>()) % values;
    }
    bool coin() { return (any<uint8_t>() & 1) != 0; }
    /// True in one of `count` cases.
    bool once_in(int count) { return range(0, count - 1) == 0; }
    /// 0..1 in steps of 1/255.
    float fraction() { return static_cast<float>(any<uint8_t>()) / 255.0F; }
    template <typename T, size_t N>
    T pick(const T (&values)[N]) {
        return values[static_cast<size_t>(range(0, N - 1))];
    }

private:
    const uint8_t *data_;
    size_t left_;
};

} // namespace qconv::fuzz
