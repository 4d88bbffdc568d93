// What the tool says on standard error. Saying it never fails: with standard error closed or full nobody is there to
// tell.
#pragma once

#include <string_view>

namespace qconv::tools {

/// One message on a line of its own, made printable (tools/text.h).
void report(std::string_view message) noexcept;

/// As it is, for what draws on a terminal.
void put_on_terminal(std::string_view text) noexcept;

/// Gives standard input, output and error a place when the caller closed them: else the next file that is opened takes
/// the number, and messages go into it. Writes to the place fail.
void hold_standard_streams() noexcept;

} // namespace qconv::tools
