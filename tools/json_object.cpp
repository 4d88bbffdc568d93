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

/// What the library found, without its own prefix and position.
std::string reason(const std::string &what) {
    if (what.find("UTF-8") != std::string::npos) return "the text is not UTF-8";
    if (what.find("end of input") != std::string::npos) return "the text ends too early";
    if (const auto read = what.find("last read: '"); read != std::string::npos) {
        constexpr std::size_t kShown = 16;
        const std::string text = what.substr(read + 12, what.rfind('\'') - read - 12);
        return fmt::format("cannot read on after '{}'",
                           text.size() > kShown ? text.substr(text.size() - kShown) : text);
    }
    const auto found = what.find("unexpected ");
    return found == std::string::npos ? what : what.substr(found);
}

} // namespace

nlohmann::json read_json(const std::string &path) {
    using Json = nlohmann::json;
    const std::string text = read_text(path);
    std::vector<std::set<std::string>> open_objects;
    const auto check = [&](int depth, Json::parse_event_t event, Json &value) {
        if (depth > kDeepestJson) {
            throw InputError(
                fmt::format("{}: has more than {} arrays and objects inside each other", path, kDeepestJson));
        }
        if (event == Json::parse_event_t::object_start) open_objects.emplace_back();
        if (event == Json::parse_event_t::object_end) open_objects.pop_back();
        if (event == Json::parse_event_t::key && !open_objects.back().insert(value.get<std::string>()).second) {
            throw InputError(
                fmt::format("{}: key '{}' is written twice in one object", path, value.get<std::string>()));
        }
        return true;
    };
    try {
        return Json::parse(text, check);
    } catch (const Json::parse_error &error) {
        throw InputError(fmt::format("{}: not JSON: {}", position(path, text, error.byte), reason(error.what())));
    } catch (const Json::out_of_range &error) {
        const std::string what = error.what();
        throw InputError(fmt::format("{}: {} is too large a number", path, what.substr(what.rfind(' ') + 1)));
    }
}

} // namespace qconv::tools
