// Forward by xor and popcount from packed signs: to float, or to packed signs again by a threshold on the sums. BitsArg
// in layout.h documents the inputs.
#include "convolution.h"
#include "edges.h"
#include "popcount.h"
#include "qconv/layout.h"

namespace qconv {
namespace {

using namespace Halide;
using Halide::Internal::make_const;
using Halide::Internal::make_zero;

template <class Self>
class BitsGenerator : public ConvolutionGenerator<Self> {
    using Base = ConvolutionGenerator<Self>;

protected:
    template <class T>
    using Input = typename Base::template Input<T>;
    template <class T>
    using Output = typename Base::template Output<T>;

public:
    Input<Buffer<uint32_t, 3>> x{"x"};
    Input<Buffer<void, 6>> weight{"weight"};
    Input<Buffer<int32_t, 2>> offset{"offset"};
    Input<Buffer<float, 3>> edge{"edge"};
    Input<Buffer<int32_t, 3>> limit{"limit"};
    Input<Buffer<uint32_t, 2>> flip{"flip"};
    Input<int32_t> kernel_size_in{"kernel_size_in", 1, 1, 1 << 30};
    Input<int32_t> stride_in{"stride_in", 1, 1, 1 << 30};
    Input<int32_t> dilation_in{"dilation_in", 1, 1, 1 << 30};
    Input<int32_t> channels_in{"channels_in", 1, 1, 1 << 30};
    Input<int32_t> pad_left{"pad_left"};
    Input<int32_t> tile_width{"tile_width"};
    Input<int32_t> edge_left{"edge_left"};
    Input<int32_t> edge_right{"edge_right"};
    Input<int32_t> pad_level{"pad_level"};
    Input<float> scale{"scale"};
    Input<float> pad_delta{"pad_delta"};
    Output<Buffer<void, 4>> y{"y"};

protected:
    Expr channels() const { return this->group_size(this->in_channels, channels_in); }
    Expr kernel_size() const { return this->constant_or(this->kernel_taps, kernel_size_in); }
    Expr dilation() const { return this->constant_or(this->dilation_by, dilation_in); }
    Expr stride() const override {
        return this->is_unit_stride() ? Expr(1) : this->constant_or(this->stride_by, stride_in);
    }
    Expr width() const { return x.dim(0).extent(); }
};

class ForwardBits : public PopcountGenerator<BitsGenerator<ForwardBits>> {
public:
    /// Whether y has packed signs ("y.type" uint32) instead of sums (float32).
    GeneratorParam<bool> packed_output{"packed_output", false};

    void generate() {
        describe_buffers();
        build_words();
        build_sums();
        if (packed_output) {
            pack_signs();
        } else {
            y(w, o, g, n) = scale * cast<float>(offset(o, g) - 2 * acc(w, o, g, n));
            edges().correct(y, y.dim(0).extent(), pad_delta, edge, o, g, n);
        }
    }

    void schedule() {
        if (using_autoscheduler()) return;
        schedules::BitsStages stages;
        stages.y = y, stages.w = w, stages.o = o, stages.g = g, stages.n = n, stages.p = p;
        stages.tile_width = tile_width, stages.width_block = width_block;
        stages.input = input, stages.tap_tables = tap_tables;
        fill_sums(stages);
        if (!packed_output) {
            schedules::apply(static_cast<const schedules::ForwardStages &>(stages), context());
            return;
        }
        stages.words = words, stages.blocks = blocks, stages.row = row;
        stages.cases = {alike};
        schedules::apply(stages, context());
    }

private:
    Func words{"words"}; // of y, before the flips
    RVar blocks;
    Expr alike; // all columns have the same limits

    /// Words of word_channels channels at every padded position, cut out of x's words of 32, which know no groups.
    void build_words() {
        const int s = word_channels;
        const Type narrow = holder(s);
        const Expr first = g * channels() + row * s, index = first / 32, shift = cast<uint32_t>(first % 32);
        const Expr at = clamp(likely(p - pad_left), 0, width() - 1);
        const Expr low = x(at, index, n) >> shift;
        // Channels that begin in one word and end in the next.
        const Expr high = x(at, min(index + 1, x.dim(1).extent() - 1), n) << ((32 - shift) & 31);
        const Expr bits = cast(narrow, low | select(shift + s > 32, high, cast<uint32_t>(0)));
        const Expr padding = select((pad_level & 1) != 0, narrow.max(), make_zero(narrow));
        Expr real = mask(channels() - row * s, narrow);
        if (s < narrow.bits()) real = real & make_const(narrow, (uint64_t{1} << s) - 1);
        Func cut("words_" + std::to_string(s));
        cut(p, row, plane, g, n) = select(likely(p >= pad_left && p < pad_left + width()), bits, padding) & real;
        join_taps(cut);
    }

    EdgeColumns edges() const {
        return {edge_left, edge_right, pad_left, width(), kernel_size(), stride(), dilation()};
    }

    void pack_signs() {
        const Expr last = limit.dim(1).extent() - 1;
        const Expr past = kernel_size() + 1 + edges().first_past(w);
        const Expr inside = w >= edge_left && w < edge_right;
        const Expr edge_case = clamp(select(inside, 0, w < edge_left, edges().first_inside(w), past), 0, last);
        alike = limit.dim(1).extent() == 1;
        const int block = out_block;
        RDom b(0, 32 / block, "b");
        b.where(row * 32 + b * block < limit.dim(0).extent());
        blocks = b.x;
        Expr bits = cast<uint32_t>(0);
        for (int i = 0; i < block; i++) {
            const Expr channel = row * 32 + b * block + i;
            const Expr most = select(alike, limit(channel, 0, g), limit(channel, edge_case, g));
            bits = bits | select(acc(w, channel, g, n) <= most, cast<uint32_t>(1 << i), cast<uint32_t>(0));
        }
        words(w, row, g, n) = cast<uint32_t>(0);
        words(w, row, g, n) = words(w, row, g, n) | (bits << cast<uint32_t>(b * block));
        y(w, row, g, n) = words(w, row, g, n) ^ flip(row, g);
    }

    void describe_buffers() {
        weight.dim(0).set_extent(out_block);
        for (int d = 1; d < weight.dimensions(); d++)
            weight.dim(d).set_stride(weight.dim(d - 1).stride() * weight.dim(d - 1).extent());
        const auto from_zero = [](auto &buffer) {
            for (int d = 0; d < buffer.dimensions(); d++)
                buffer.dim(d).set_min(0);
        };
        from_zero(x), from_zero(weight), from_zero(offset), from_zero(edge), from_zero(limit), from_zero(flip);
        from_zero(y);
    }
};

} // namespace
} // namespace qconv

HALIDE_REGISTER_GENERATOR(qconv::ForwardBits, forward_bits)
