// grad_input of binary weights by table lookup: as forward_f32b1, with the gradient in place of the input, and input
// and output channels exchanged.
#include "grad_input.h"
#include "lookup.h"

namespace qconv {
namespace {

using namespace Halide;

class GradInputF32B1 : public GradInputGenerator<GradInputF32B1, Buffer<uint8_t, 5>> {
public:
    GeneratorParam<int> table_channels{"table_channels", 5};
    GeneratorParam<int> tables{"tables", 2};

    void generate() {
        describe_buffers();
        weight.dim(0).set_extent(int(tables));
        padded = padded_gradient();
        Var q("q"), z("z");
        lookup = build_table(table_channels, {p}, j, {q, g, n},
                             [&](int b) { return padded(p, q * table_channels + b, g, n); });

        // part sums the tables in use at once over the taps; acc sums the chunks of tables.
        RDom r(0, tables, 0, kernel_size(), "r");
        keep_phase(r, r.y);
        rows = r.x, taps = r.y;
        const Expr bits = cast<int32_t>(weight(r.x, r.y, c, z, g));
        const Expr entry = unsafe_promise_clamped(bits, 0, (1 << table_channels) - 1);
        part(column, phase, c, g, n, z) = 0.0f;
        part(column, phase, c, g, n, z) += lookup.table(reach(column, r.y), entry, z * tables + r.x, g, n);

        RDom chunk(0, (outputs() + (chunk_outputs() - 1)) / chunk_outputs(), "chunk");
        chunks = chunk.x;
        acc(column, phase, c, g, n) = 0.0f;
        acc(column, phase, c, g, n) += part(column, phase, c, g, n, chunk);
        define_result(acc);
    }

    void schedule() {
        if (using_autoscheduler()) {
            return estimate_call(
                {tables, kernel_taps, group_channels(), blocks(group_outputs(), chunk_outputs()), groups});
        }
        schedules::GradInputLookupStages stages;
        fill(stages, padded);
        stages.halves = lookup.halves, stages.table = lookup.table, stages.entry = j;
        stages.table_entries = 1 << table_channels;
        stages.part = part, stages.taps = taps, stages.tables = rows;
        stages.acc = acc, stages.chunks = chunks;
        schedules::apply(stages, context());
    }

private:
    /// Output channels of a chunk: those of all its tables.
    int chunk_outputs() const { return tables.value() * table_channels.value(); }

    Func padded, part{"part"}, acc{"acc"};
    LookupTable lookup;
    RVar taps, rows, chunks;
    Var j{"j"}; // entry of a table
};

} // namespace
} // namespace qconv

HALIDE_REGISTER_GENERATOR(qconv::GradInputF32B1, grad_input_f32b1)
