#include "tools/report.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <new>
#include <string>

#include "tools/text.h"

namespace qconv::tools {

void put_on_terminal(std::string_view text) noexcept {
    std::fwrite(text.data(), 1, text.size(), stderr);
    std::fflush(stderr);
}

void report(std::string_view message) noexcept {
    try {
        put_on_terminal(printable(message) + "\n");
    } catch (const std::bad_alloc &) {
        put_on_terminal("out of memory\n");
    }
}

void hold_standard_streams() noexcept {
    // The lowest free number is the one that is taken.
    for (int descriptor = STDIN_FILENO; descriptor <= STDERR_FILENO; descriptor++)
        if (fcntl(descriptor, F_GETFD) < 0) open("/dev/null", descriptor == STDIN_FILENO ? O_WRONLY : O_RDONLY);
}

} // namespace qconv::tools
