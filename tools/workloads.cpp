#include "tools/workloads.h"

#include <charconv>
#include <map>
#include <sstream>
#include <utility>

#include "tools/embedded.h"
#include "tools/errors.h"
#include "tools/files.h"

namespace qconv::tools {
namespace {

// A field in double quotes may hold commas, and a quote written twice.
std::vector<std::string> split_csv(const std::string &line) {
    std::vector<std::string> fields(1);
    bool quoted = false;
    for (size_t i = 0; i < line.size(); i++) {
        const char c = line[i];
        if (quoted && c == '"' && i + 1 < line.size() && line[i + 1] == '"') {
            fields.back() += '"';
            i++;
        } else if (c == '"') {
            quoted = !quoted;
        } else if (c == ',' && !quoted) {
            fields.emplace_back();
        } else if (c != '\r') {
            fields.back() += c;
        }
    }
    return fields;
}

class Table {
public:
    Table(std::string file, const std::string &header) : file_(std::move(file)) {
        const std::vector<std::string> names = split_csv(header);
        for (size_t i = 0; i < names.size(); i++)
            columns_.emplace(names[i], i);
        for (const char *name : {"name", "layer", "C_in", "C_out", "K", "stride", "pad", "dilation", "groups", "W_in"})
            if (!columns_.count(name)) throw InputError(file_ + ": line 1: no column '" + name + "'");
    }

    Workload row(const std::string &line, size_t number) {
        number_ = number;
        fields_ = split_csv(line);
        Workload w;
        w.name = text("name") + "/" + text("layer");
        w.in_channels = integer("C_in", 1);
        w.out_channels = integer("C_out", 1);
        w.kernel_size = integer("K", 1);
        w.stride = integer("stride", 1);
        w.pad_left = integer("pad", 0);
        w.pad_right = columns_.count("pad_right") ? integer("pad_right", 0) : w.pad_left;
        w.dilation = integer("dilation", 1);
        w.groups = integer("groups", 1);
        w.width = integer("W_in", 1);
        if (columns_.count("N")) w.batch = integer("N", 1);
        if (w.in_channels % w.groups != 0 || w.out_channels % w.groups != 0)
            fail("groups", "must divide C_in and C_out");
        if (w.width + w.pad_left + w.pad_right < w.dilation * (w.kernel_size - 1) + 1)
            fail("W_in", "the padded row must hold one window, dilation * (K - 1) + 1 positions");
        if (columns_.count("W_out") && integer("W_out", 1) != w.width_out())
            fail("W_out", "the other columns give " + std::to_string(w.width_out()));
        return w;
    }

private:
    std::string text(const char *column) const {
        const size_t i = columns_.at(column);
        if (i >= fields_.size())
            throw InputError(where() + ": no field in column '" + column + "' (" + std::to_string(fields_.size()) +
                             " fields)");
        return fields_[i];
    }

    int64_t integer(const char *column, int64_t least) const {
        // A product of a few such sizes stays within int64.
        constexpr int64_t kMost = 1 << 24;
        const std::string value = text(column);
        int64_t number = 0;
        const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number);
        if (error != std::errc() || end != value.data() + value.size() || number < least || number > kMost)
            fail(column, "must be an integer from " + std::to_string(least) + " to " + std::to_string(kMost));
        return number;
    }

    [[noreturn]] void fail(const char *column, const std::string &allowed) const {
        throw InputError(where() + ": column '" + column + "' is '" + text(column) + "'; " + allowed);
    }

    std::string where() const { return file_ + ": line " + std::to_string(number_); }

    std::string file_;
    std::map<std::string, size_t> columns_;
    std::vector<std::string> fields_;
    size_t number_ = 1;
};

std::vector<Workload> parse(std::istream &stream, const std::string &file) {
    std::string line;
    if (!std::getline(stream, line)) throw InputError(file + ": is empty; the first line names the columns");
    Table table(file, line);
    std::vector<Workload> rows;
    for (size_t number = 2; std::getline(stream, line); number++) {
        if (line.empty() || line == "\r") continue;
        rows.push_back(table.row(line, number));
    }
    if (rows.empty()) throw InputError(file + ": has no rows below the column names");
    return rows;
}

} // namespace

std::vector<Workload> read_workloads(const std::filesystem::path &csv) {
    std::istringstream stream(read_text(csv));
    return parse(stream, csv.string());
}

std::vector<Workload> builtin_workloads() {
    std::istringstream stream{std::string(embedded_workloads_csv)};
    return parse(stream, "workloads.csv");
}

void set_shape(const Workload &w, qconv_layer_config &config) {
    config.in_channels = w.in_channels;
    config.out_channels = w.out_channels;
    config.kernel_size = w.kernel_size;
    config.stride = w.stride;
    config.pad_left = w.pad_left;
    config.pad_right = w.pad_right;
    config.dilation = w.dilation;
    config.groups = w.groups;
    config.width = w.width;
}

} // namespace qconv::tools
