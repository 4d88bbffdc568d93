#include "tools/bench_matrix.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "runtime/quantize.h"
#include "tools/embedded.h"
#include "tools/errors.h"
#include "tools/kernel_loading.h"
#include "tools/layer_file.h"

namespace qconv::tools {
namespace {

constexpr const char *kBaseline = "sign";

BenchRow with_quantizers(BenchRow row, const std::string &input, const std::string &weight, const BenchWork &work) {
    row.name += fmt::format(" {}/{}", input, weight);
    row.config.input_quantization = timed_quantizer(input, work);
    row.config.weight_quantization = timed_quantizer(weight, work);
    row.config.input_mix = row.config.weight_mix = 0;
    return row;
}

/// One row in one direction.
class Table {
public:
    Table(const BenchRow &row, const BenchWork &work, const TargetInfo &target, const BenchSettings &settings,
          PeakMeter &peaks)
        : row_(row), work_(work), settings_(settings), peaks_(peaks) {
        // The runtime's choice among the target's kernels.
        for (const qconv_op op : work)
            kernels_[op] = "@" + target.name;
    }

    MatrixCell time(const std::string &input, const std::string &weight) {
        const BenchRow row = with_quantizers(row_, input, weight, work_);
        MatrixCell cell{row_.name, input, weight, work_, false, {}};
        cell.binary = input_representation(row.config).binary() && weight_representation(row.config).binary();
        try {
            if (!baseline_) baseline_.emplace(with_quantizers(row_, kBaseline, kBaseline, work_), work_, kernels_);
            if (input == kBaseline && weight == kBaseline) {
                cell.result = time_layer(row, *baseline_, nullptr, settings_, work_, peaks_);
                cell.result.compared = cell.result.compared_least = 1;
                cell.result.other = cell.result.kernels();
            } else {
                const CheckedLayer layer(row, work_, kernels_);
                cell.result = time_layer(row, layer, &*baseline_, settings_, work_, peaks_);
            }
        } catch (const Interrupted &) {
            throw;
        } catch (const Error &error) {
            // The other pairs still count; the exit code tells.
            cell.result.name = row.name;
            cell.result.error = error.what();
        }
        return cell;
    }

private:
    const BenchRow &row_;
    const BenchWork &work_;
    const BenchSettings &settings_;
    PeakMeter &peaks_;
    KernelChoice kernels_;
    std::optional<CheckedLayer> baseline_; // sign/sign, which takes turns with every other pair
};

void require_quantized(const std::vector<BenchRow> &rows) {
    for (const BenchRow &row : rows)
        if (row.config.kind != QCONV_LAYER_QCONV1D)
            throw InputError(fmt::format("--matrix: layer '{}' is {}; it must be QConv1d, which quantizes both sides",
                                         row.name, layer_kind_name(row.config.kind)));
}

} // namespace

size_t MatrixReport::failed() const {
    return static_cast<size_t>(
        std::count_if(cells.begin(), cells.end(), [](const MatrixCell &cell) { return !cell.result.error.empty(); }));
}

Matrix builtin_matrix() {
    const nlohmann::json json = nlohmann::json::parse(embedded_matrix_json);
    Matrix matrix;
    json.at("rows").get_to(matrix.rows);
    json.at("input_quantization").get_to(matrix.inputs);
    json.at("weight_quantization").get_to(matrix.weights);
    return matrix;
}

void bench_matrix(const std::vector<BenchRow> &rows, const BenchSettings &settings, const TargetInfo &target,
                  MatrixReport &report, PeakMeter &peaks) {
    require_quantized(rows);
    register_generic_kernels({target});
    const Matrix &matrix = report.matrix;
    report.wanted = rows.size() * report.works.size() * matrix.inputs.size() * matrix.weights.size();
    for (int i = 0; i < 5; i++)
        peaks.sample();
    try {
        for (const BenchRow &row : rows) {
            for (const BenchWork &work : report.works) {
                if (!settings.json) print_matrix_header(report, row.name, work, peaks);
                Table table(row, work, target, settings, peaks);
                for (const std::string &input : matrix.inputs) {
                    const size_t first = report.cells.size();
                    for (const std::string &weight : matrix.weights)
                        report.cells.push_back(table.time(input, weight));
                    if (!settings.json) print_matrix_line(report.cells, first);
                }
            }
        }
    } catch (const Interrupted &) {
        // What was measured is reported.
    }
}

} // namespace qconv::tools
