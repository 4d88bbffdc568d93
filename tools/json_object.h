// Reading one JSON object strictly: every key must be known and used, every value of its type. Errors say where.
#pragma once

#include <fmt/format.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "tools/errors.h"
#include "tools/text.h"

namespace qconv::tools {

class JsonObject {
public:
    using Json = nlohmann::json;

    /// `where` begins every message: "net.json: layer 3 'conv'".
    JsonObject(const Json &json, std::string where, const std::vector<std::string> &keys)
        : json_(json), where_(std::move(where)) {
        if (!json.is_object()) fail("must be an object {...}, not " + shown(json));
        for (const auto &item : json.items()) {
            if (std::find(keys.begin(), keys.end(), item.key()) != keys.end()) continue;
            fail(fmt::format("unknown key '{}'{}; known keys: {}", item.key(), did_you_mean(item.key(), keys),
                             join(keys)));
        }
    }

    bool has(const std::string &key) const { return json_.contains(key); }
    const Json &at(const std::string &key) const { return json_.at(key); }
    const std::string &where() const { return where_; }

    int64_t integer(const std::string &key, int64_t otherwise) const {
        return has(key) ? to_integer(at(key), key) : otherwise;
    }
    int64_t required_integer(const std::string &key) const {
        if (!has(key)) fail(fmt::format("key '{}' is missing; it must be an integer >= 1", key));
        return to_integer(at(key), key);
    }
    float number(const std::string &key, float otherwise) const {
        return has(key) ? to_number(at(key), key) : otherwise;
    }
    bool boolean(const std::string &key, bool otherwise) const {
        if (!has(key)) return otherwise;
        if (!at(key).is_boolean()) fail_type(key, at(key), "true or false");
        return at(key).get<bool>();
    }
    std::string text(const std::string &key, const std::string &otherwise) const {
        if (!has(key)) return otherwise;
        if (!at(key).is_string()) fail_type(key, at(key), "a string");
        return at(key).get<std::string>();
    }

    int64_t to_integer(const Json &value, const std::string &key) const {
        // 3.0 is an integer too: some writers know no other numbers.
        if (value.is_number_float() && std::trunc(value.get<double>()) == value.get<double>() &&
            std::abs(value.get<double>()) < 9e15) {
            return static_cast<int64_t>(value.get<double>());
        }
        if (!value.is_number_integer()) fail_type(key, value, "an integer");
        if (value.is_number_unsigned() &&
            value.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
            fail_type(key, value, "an integer below 2^63");
        }
        return value.get<int64_t>();
    }
    float to_number(const Json &value, const std::string &key) const {
        if (!value.is_number()) fail_type(key, value, "a number");
        const double number = value.get<double>();
        if (!(std::abs(number) <= std::numeric_limits<float>::max())) fail_type(key, value, "a finite float32 number");
        return static_cast<float>(number);
    }

    [[noreturn]] void fail(const std::string &message) const { throw InputError(where_ + ": " + message); }
    [[noreturn]] void fail_type(const std::string &key, const Json &value, const std::string &wanted) const {
        fail(fmt::format("'{}' is {}; it must be {}", key, shown(value), wanted));
    }

    /// A value as written, cut to a readable length.
    static std::string shown(const Json &value) {
        std::string text = value.dump(-1, ' ', false, Json::error_handler_t::replace);
        if (text.size() > 60) text = text.substr(0, 57) + "...";
        return text;
    }

private:
    const Json &json_;
    std::string where_;
};

/// Levels of arrays and objects inside each other that files may have. The JSON library prints and copies values by
/// recursion, so that unbounded ones would exhaust the stack.
constexpr int kDeepestJson = 32;

/// Parses a JSON file; a syntax error, a key written twice or too many levels become an InputError, where there is one
/// with line and column.
nlohmann::json read_json(const std::string &path);

} // namespace qconv::tools
