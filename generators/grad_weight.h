// What the grad_weight generators share: inputs, shape facts, the weight quantizer's surrogate. Formulas in layout.h.
#pragma once

#include "Halide.h"
#include "convolution.h"
#include "qconv/layout.h"
#include "quantizers.h"
#include "schedules/schedule.h"

namespace qconv {

/// Base of the grad_weight generators. The inputs are those of GradWeightArg, in its order.
template <class Self>
class GradWeightGenerator : public ConvolutionGenerator<Self> {
    using Base = ConvolutionGenerator<Self>;

protected:
    using typename Base::Expr;
    template <class T>
    using Input = typename Base::template Input<T>;
    template <class T>
    using Output = typename Base::template Output<T>;
    using Base::constant_or, Base::c, Base::g, Base::group_size, Base::n, Base::o, Base::p, Base::specialised;

public:
    Input<Halide::Buffer<float, 4>> grad_output{"grad_output"};
    Input<Halide::Buffer<float, 4>> x{"x"};
    Input<Halide::Buffer<uint32_t, 5>> state{"state"};
    Input<Halide::Buffer<float, 4>> weight{"weight"};
    Input<int32_t> kernel_size_in{"kernel_size_in", 1, 1, 1 << 30};
    Input<int32_t> stride_in{"stride_in", 1, 1, 1 << 30};
    Input<int32_t> dilation_in{"dilation_in", 1, 1, 1 << 30};
    Input<int32_t> pad_left{"pad_left"};
    Input<int32_t> tile_width{"tile_width"};
    Input<int32_t> tile_channels{"tile_channels"};
    Input<int32_t> edge_left{"edge_left"};
    Input<int32_t> edge_right{"edge_right"};
    Input<float> pad_delta{"pad_delta"};
    Input<float> pad_value{"pad_value"};
    Input<int32_t> source{"source"};
    Input<int32_t> quantizer{"quantizer"};
    Input<float> levels{"levels"};
    Input<float> divisor{"divisor"};
    Input<int32_t> next{"next"};
    Input<float> next_levels{"next_levels"};
    Input<float> next_divisor{"next_divisor"};
    Input<float> mix{"mix"};
    Input<int32_t> weight_factor{"weight_factor"};
    Input<int32_t> weight_quantizer{"weight_quantizer"};
    Input<float> weight_beta{"weight_beta"};
    Input<int32_t> weight_next{"weight_next"};
    Input<float> weight_next_beta{"weight_next_beta"};
    Input<float> weight_mix{"weight_mix"};
    Output<Halide::Buffer<float, 4>> grad_weight{"grad_weight"};

protected:
    Halide::Var k{"k"}; ///< tap

    /// Whether the rows of weight and grad_weight are one dimension, of channels and their taps, and the next is 1.
    virtual bool joins_taps() const { return false; }

    Expr channels() const { return group_size(this->in_channels, x.dim(1).extent()); }
    Expr outputs() const { return group_size(this->out_channels, grad_weight.dim(2).extent()); }
    Expr kernel_size() const { return constant_or(this->kernel_taps, kernel_size_in); }
    Expr dilation() const { return constant_or(this->dilation_by, dilation_in); }
    Expr stride() const override { return this->is_unit_stride() ? Expr(1) : constant_or(this->stride_by, stride_in); }
    Expr width() const { return x.dim(0).extent(); }
    Expr width_out() const { return grad_output.dim(0).extent(); }
    Expr batch() const { return grad_output.dim(3).extent(); }
    Expr tiles() const { return (width_out() + tile_width - 1) / tile_width; }

    Expr inside(const Expr &at) const { return at >= pad_left && at < pad_left + width(); }
    /// The position of x nearest to padded position `at`.
    Expr position(const Expr &at) const { return position(at, width() - 1); }
    Expr position(const Expr &at, const Expr &last) const {
        return Halide::clamp(Halide::likely(at - pad_left), 0, last);
    }

    /// gy with its tail filled up by zeros, so that whole blocks of positions and outputs may be summed.
    Expr gradient(const Expr &at, const Expr &output) const {
        const Expr known = Halide::likely(at < width_out()) && Halide::likely(output < outputs());
        return Halide::select(known,
                              grad_output(Halide::clamp(Halide::likely(at), 0, width_out() - 1),
                                          Halide::clamp(Halide::likely(output), 0, outputs() - 1), g, n),
                              0.0f);
    }

    /// signs(i, c, g, n): 1 where x was +1, else 0.
    Halide::Func unpack_signs() const {
        Halide::Func signs("signs");
        const Expr word = state(Halide::clamp(p / 32, 0, this->last_index(state.dim(0).extent(), from_state())), 0,
                                Halide::min(c, channels() - 1), g, n);
        // The float paths come here with an input instead of a state too: the words are then not read.
        signs(p, c, g, n) =
            Halide::select(from_state(), Halide::cast<uint8_t>((word >> Halide::cast<uint32_t>(p % 32)) & 1u),
                           Halide::cast<uint8_t>(0));
        return signs;
    }

    /// The input of the float paths, quantized and padded, at padded position p; 0 past the last channel.
    Halide::Func float_input(const Halide::Func &signs) const {
        using Halide::select;
        const Expr channel = Halide::min(c, channels() - 1);
        const Expr v = x(position(p, this->last_index(width(), !from_state())), channel, g, n);
        const Expr first = quantizers::forward(quantizer, v, levels, divisor);
        const Expr second = quantizers::forward(next, v, next_levels, next_divisor);
        const Expr mixed = select(mix == 0.0f, first, second * mix + first * (1.0f - mix));
        const Expr sign = select(signs(position(p), channel, g, n) != 0, 1.0f, -1.0f);
        const Expr value = select(from_state(), sign, mixed);
        Halide::Func padded("padded");
        padded(p, c, g, n) = select(c < channels(), select(Halide::likely(inside(p)), value, pad_value), 0.0f);
        return padded;
    }
    /// Cases of float_input worth code of their own.
    std::vector<Expr> float_input_cases() const {
        return {from_state(), quantizer == QCONV_IDENTITY && mix == 0.0f,
                quantizer != QCONV_WEIGHTDOREFA && next != QCONV_WEIGHTDOREFA};
    }

    /// The derivative of the weight quantizer at weight (at, c, o, g).
    Expr surrogate(const Halide::Var &at) const {
        const Expr v = weight(at, c, o, g);
        const Expr first = quantizers::gradient(weight_quantizer, v, weight_beta);
        const Expr second = quantizers::gradient(weight_next, v, weight_next_beta);
        const Expr mixed = Halide::select(weight_mix == 0.0f, first, second * weight_mix + first * (1.0f - weight_mix));
        return Halide::select(weight_factor == int(Surrogate::One), 1.0f, mixed);
    }
    /// Fills the part of a schedule's stages that every form has.
    void fill(schedules::GradWeightStages &stages) const {
        stages.grad_weight = grad_weight;
        stages.k = k, stages.c = c, stages.o = o, stages.g = g, stages.n = n, stages.p = p, stages.w = this->w;
        stages.tile_channels = tile_channels, stages.out_block = this->out_block;
        stages.cases = {needs_no_weight()};
    }

    std::vector<Expr> weight_extents() const {
        if (joins_taps()) return {channels() * kernel_size(), 1, outputs(), int(this->groups)};
        return {kernel_size(), channels(), outputs(), int(this->groups)};
    }

    Expr from_state() const { return source == int(Surrogate::FromState); }
    Expr needs_no_weight() const { return weight_factor == int(Surrogate::One); }

    /// Estimates for an autoscheduler, of a call whose tile is `tile` positions.
    void estimate_call(int tile) {
        const int out = this->width_out_estimate, images = this->batch_estimate, group_count = this->groups;
        const int in = this->width_estimate, channels_of_group = this->group_channels();
        const int taps = this->kernel_taps, row = joins_taps() ? taps * channels_of_group : taps;
        const std::vector<int> weights{row, joins_taps() ? 1 : channels_of_group, this->group_outputs(), group_count};
        this->estimate_buffer(grad_output, {out, this->group_outputs(), group_count, images});
        this->estimate_buffer(x, {in, channels_of_group, group_count, images});
        this->estimate_buffer(state, {int(state_words(in)), 2, channels_of_group, group_count, images});
        this->estimate_buffer(weight, weights);
        this->estimate_buffer(grad_weight, weights);
        kernel_size_in.set_estimate(taps);
        stride_in.set_estimate(int(this->stride_by));
        dilation_in.set_estimate(int(this->dilation_by));
        tile_width.set_estimate(tile);
        tile_channels.set_estimate(channels_of_group);
        edge_left.set_estimate(1);
        edge_right.set_estimate(out - 1);
        pad_left.set_estimate(0);
        this->estimate_switches({&source, &quantizer, &next, &weight_factor, &weight_quantizer, &weight_next}, 1);
        this->estimate_scalars({&mix, &weight_mix}, 0.0f);
        this->estimate_scalars({&pad_delta, &pad_value, &levels, &divisor, &next_levels, &next_divisor}, 1.0f);
        this->estimate_scalars({&weight_beta, &weight_next_beta}, 1.0f);
    }
    /// The widest whole tile within an estimated row.
    int estimated_tile() const { return this->blocks(this->width_out_estimate, this->width_block) * this->width_block; }

    void describe_buffers() {
        this->describe_tensor(grad_output, 1, this->out_channels);
        this->describe_tensor(x, 1, this->in_channels);
        this->describe_tensor(state, 2, this->in_channels);
        state.dim(1).set_extent(2);
        for (int d = 0; d < 4; d++)
            weight.dim(d).set_min(0), grad_weight.dim(d).set_min(0);
        if (joins_taps()) weight.dim(1).set_extent(1), grad_weight.dim(1).set_extent(1);
        if (specialised()) {
            const std::vector<Expr> extents = weight_extents();
            for (int d = 0; d < 4; d++)
                weight.dim(d).set_extent(extents[d]), grad_weight.dim(d).set_extent(extents[d]);
        }
        for (int d = 1; d < 4; d++) { // dense
            grad_weight.dim(d).set_stride(grad_weight.dim(d - 1).stride() * grad_weight.dim(d - 1).extent());
        }
    }
};

} // namespace qconv
