// The exception of the C++ API, shared by the library's inside and its header-only wrapper.
#pragma once

#include <stdexcept>
#include <string>

#include "qconv/qconv.h"

namespace qconv {

/// A failed call: a status of the C ABI, and text that names the field, its value, and what is allowed.
class Error : public std::runtime_error {
public:
    Error(qconv_status status, const std::string &text) : std::runtime_error(text), status_(status) {}

    qconv_status status() const noexcept { return status_; }

private:
    qconv_status status_;
};

} // namespace qconv
