// grad_weight in floating point, for targets with many threads: the positions of all samples, laid end to end, are cut
// into pieces of tile_width, which are summed side by side.
#include "grad_weight.h"

namespace qconv {
namespace {

using namespace Halide;

class GradWeightPieces : public GradWeightGenerator<GradWeightPieces> {
public:
    GeneratorParam<int> channel_block{"channel_block", 8};
    GeneratorParam<int> tap_block{"tap_block", 1};

    void generate() {
        describe_buffers();
        rows(w, o, g, n) = gradient(w, o);
        values = input_values();
        padded = padded_values(values);

        // Of each sample's row, whole blocks of width_block positions; in a block, each of `warp` lanes sums every so
        // many, and total adds up the lanes.
        const int positions = width_block, lanes = warp;
        const Expr row_blocks = (width_out() + (positions - 1)) / positions, blocks = row_blocks * batch(),
                   piece_blocks = tile_width / positions;
        Var lane("lane"), step("step"), block("block"), piece("piece");
        // What conditions imply below, said so that no sample and no tap beyond the last are asked for.
        const Expr real = min(block, blocks - 1), tap = min(k, kernel_size() - 1);
        const Expr at = real % row_blocks * positions + step * lanes + lane;
        // Columns past the last meet padding behind x, which is finite: 0 times an infinite input would not be 0.
        const Expr column = select(at < width_out(), at * stride(), pad_left + width());
        taken(c, lane, step, block, k, g) = padded(column + tap * dilation(), c, g, real / row_blocks);
        given(o, lane, step, block, g) = rows(at, o, g, real / row_blocks);

        RDom r(0, positions / lanes, 0, piece_blocks, "r"), all_lanes(0, lanes, "lanes"),
            pieces(0, (blocks + piece_blocks - 1) / piece_blocks, "pieces");
        const Expr of_piece = piece * piece_blocks + r.y;
        r.where(of_piece < blocks);
        part(lane, o, k, c, g, piece) = 0.0f;
        part(lane, o, k, c, g, piece) += given(o, lane, r.x, of_piece, g) * taken(c, lane, r.x, of_piece, k, g);
        total(o, k, c, g, piece) = 0.0f;
        total(o, k, c, g, piece) += part(all_lanes, o, k, c, g, piece);
        acc(o, k, c, g) = 0.0f;
        acc(o, k, c, g) += total(o, k, c, g, pieces);
        grad_weight(k, c, o, g) = factor_of(k) * acc(o, k, c, g);

        stages.rows = rows, stages.padded = padded, stages.taken = taken;
        stages.part = part, stages.lane = lane, stages.piece = piece, stages.positions = r.x, stages.blocks = r.y;
        stages.total = total, stages.lanes = all_lanes, stages.warp = lanes;
        stages.acc = acc, stages.pieces = pieces;
    }

    void schedule() {
        if (using_autoscheduler()) return estimate_call(estimated_tile());
        fill(stages);
        stages.channel_block = channel_block, stages.tap_block = tap_block;
        schedules::apply(stages, context());
    }

private:
    schedules::GradWeightPieceStages stages;
    Func rows{"rows"}, values, padded, taken{"taken"}, given{"given"}, part{"part"}, total{"total"}, acc{"acc"};
};

} // namespace
} // namespace qconv

HALIDE_REGISTER_GENERATOR(qconv::GradWeightPieces, grad_weight_pieces)
