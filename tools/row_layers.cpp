#include "tools/row_layers.h"

#include "tools/workloads.h"

namespace qconv::tools {

void RowOptions::add_to(CLI::App &command) {
    command.add_option("--layer", kind, "Layers of a .csv: QConv1d, QConv1d_NoAct or conv1d")->capture_default_str();
    command.add_option("--input-quantization", input, "Of a .csv's QConv1d layers: sign, inputdorefa(2), ...")
        ->capture_default_str();
    command.add_option("--weight-quantization", weight, "Of a .csv's quantized layers")->capture_default_str();
    command
        .add_option("--threshold", threshold,
                    "gradient_cancellation_threshold of a .csv's QConv1d layers: a number >= 0, or none")
        ->capture_default_str();
}

std::vector<LayerSpec> read_layers_or_workloads(const std::string &path, const RowOptions &options) {
    LayerSpec row;
    qconv_layer_config_init(&row.config, parse_layer_kind(options.kind));
    row.config.input_quantization = parse_quantizer(options.input);
    row.config.weight_quantization = parse_quantizer(options.weight);
    if (row.config.kind == QCONV_LAYER_QCONV1D)
        row.config.gradient_cancellation_threshold = parse_threshold(options.threshold);
    if (!path.ends_with(".csv")) return read_layer_file(path);
    std::vector<LayerSpec> layers;
    for (const Workload &workload : read_workloads(path)) {
        LayerSpec layer = row;
        layer.name = workload.name;
        set_shape(workload, layer.config);
        layer.width = workload.width;
        layer.batch = workload.batch;
        layers.push_back(layer);
    }
    return layers;
}

} // namespace qconv::tools
