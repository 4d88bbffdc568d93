#include "tools/json_object.h"

#include "tools/files.h"

namespace qconv::tools {
namespace {

/// "file:line:column" of a byte offset.
std::string position(const std::string &path, const std::string &text, std::size_t byte) {
    const std::string_view before = std::string_view(text).substr(0, byte > 0 ? byte - 1 : 0);
    const auto line = std::count(before.begin(), before.end(), '\n') + 1;
    const auto start = before.rfind('\n');
    return fmt::format("{}:{}:{}", path, line, start == std::string_view::npos ? byte : byte - start - 1);
}

/// The library's text without its own prefix and position.
std::string reason(const std::string &what) {
    const auto last = what.rfind("last read: ");
    const auto colon = what.find(": ", what.find("column"));
    if (what.find("last read: '<U+") != std::string::npos || what.find("unexpected end of input") != std::string::npos) {
        return "the text ends too early or holds a control character";
    }
    if (last != std::string::npos) return "unexpected " + what.substr(last + 11);
    return colon == std::string::npos ? what : what.substr(colon + 2);
}

} // namespace

nlohmann::json read_json(const std::string &path) {
    using Json = nlohmann::json;
    const std::string text = read_text(path);
    std::vector<std::set<std::string>> open_objects;
    const auto no_repeats = [&](int, Json::parse_event_t event, Json &value) {
        if (event == Json::parse_event_t::object_start) open_objects.emplace_back();
        if (event == Json::parse_event_t::object_end) open_objects.pop_back();
        if (event == Json::parse_event_t::key && !open_objects.back().insert(value.get<std::string>()).second) {
            throw InputError(fmt::format("{}: key '{}' is written twice in one object", path, value.get<std::string>()));
        }
        return true;
    };
    try {
        return Json::parse(text, no_repeats);
    } catch (const Json::parse_error &error) {
        throw InputError(
            fmt::format("{}: not JSON: {}", position(path, text, error.byte), reason(error.what())));
    } catch (const Json::exception &error) {
        throw InputError(fmt::format("{}: not usable JSON: {}", path, error.what()));
    }
}

} // namespace qconv::tools
