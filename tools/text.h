// Small text helpers shared by the verbs.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace qconv::tools {

/// The candidate with the least edit distance to `word`, or "" when none is close enough to be a misspelling.
std::string nearest(std::string_view word, const std::vector<std::string> &candidates);

/// "; did you mean 'x'?", or "" when nothing is near.
std::string did_you_mean(std::string_view word, const std::vector<std::string> &candidates);

/// "a, b, c".
std::string join(const std::vector<std::string> &words, std::string_view separator = ", ");

/// `text` with every control character, line breaks among them, as an escape (\n, \x1b): names come from files and
/// arguments of others, and must neither steer a terminal nor look like a second message.
std::string printable(std::string_view text);

/// The lines of a text, without what they are indented by, as one.
std::string one_line(std::string_view lines);

/// "1 kernel", "3 kernels".
std::string counted(std::size_t count, std::string_view noun);

/// `text` as a C identifier: every other character becomes '_'; a leading digit gets one in front.
std::string identifier(std::string_view text);

/// 64-bit FNV-1a as 16 hexadecimal digits: the same on every machine.
std::string stable_hash(std::string_view text);

/// "12.3 KB" and so on, in powers of 1024.
std::string human_bytes(std::uintmax_t bytes);

/// "3.2 us", "1.50 s", "2 min 5 s".
std::string human_seconds(double seconds);

} // namespace qconv::tools
