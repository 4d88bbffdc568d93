// Failures inside the library, and how they leave it through the C ABI.
#pragma once

#include <exception>
#include <new>
#include <string>
#include <utility>

#include "float_environment.h"
#include "qconv/error.hpp"
#include "qconv/qconv.h"

namespace qconv {

/// Text of the last failure on this thread.
const char *last_error() noexcept;
void set_last_error(const char *text) noexcept;

const char *status_name(qconv_status status) noexcept;

/// "NAME is VALUE; ALLOWED" as an invalid-argument Error.
[[noreturn]] void throw_invalid(const std::string &name, const std::string &value, const std::string &allowed);

/// Throws an invalid-argument Error unless the pointer is set.
void require_pointer(const void *pointer, const char *name);

/// Records the exception in flight as this thread's last error and gives its status.
qconv_status record_current_exception() noexcept;

/// Runs `body` at the C boundary: no exception gets past it, and the caller's way to compute floats stays outside.
template <typename Body>
qconv_status guarded(Body &&body) noexcept {
    const DefaultFloatEnvironment environment;
    try {
        std::forward<Body>(body)();
        return QCONV_OK;
    } catch (...) {
        return record_current_exception();
    }
}

} // namespace qconv
