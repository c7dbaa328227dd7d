#include "model/lora_linear.hpp"

#include "core/random.hpp"
#include "kernels/elementwise.hpp"
#include "reference/compare.hpp"
#include "support/gradient_sums.hpp"

using namespace longlora;
using namespace longlora::reference;

namespace {

constexpr Index rows = 5;
constexpr Index in = 7;
constexpr Index out = 6;
constexpr Index rank = 3;
constexpr float scale = 1.75F;

const DropoutPlan no_dropout;
const DropoutPlan some_dropout{.probability = 0.4, .key = 99, .first_position = 1000};

// m / (1 - p) of the layer with number `index`.
std::vector<double> mask(const DropoutPlan& plan, std::uint64_t index) {
    Matrix ones(rows, in);
    std::fill_n(ones.view().data(), rows * in, 1.0F);
    if (plan.probability > 0) {
        Matrix result(rows, in);
        dropout(Stream<Cpu>(), {.x = ones.view(),
                                .out = result.view(),
                                .probability = plan.probability,
                                .key = random_bits(plan.key, index),
                                .first_row = plan.first_position});
        return result.values();
    }
    return ones.values();
}

// A gradient, which stands in integers.
class Summed {
public:
    Summed(std::uint64_t key, Index row_count, Index column_count)
        : addend_(Matrix::random(key + 100, row_count, column_count)) {
        for (const float value : Matrix::random(key, row_count, column_count).values<float>()) {
            sum_.push_back(test::fixed_point(value));
        }
    }
    GradientSum<Cpu> target() {
        const auto shape = addend_.view();
        return {shape, {sum_.data(), shape.rows(), shape.columns()}, {&refused_, 1}, &step_tokens_};
    }
    std::vector<double> values() const {
        std::vector<double> result;
        for (const std::int64_t sum : sum_) {
            result.push_back(static_cast<double>(sum) * test::fixed_point_unit());
        }
        return result;
    }

private:
    Matrix addend_;  // what it holds before does not matter
    std::vector<std::int64_t> sum_;
    std::int64_t refused_ = 0;
    double step_tokens_ = rows;
};

// One layer, its weights and what its backward is given.
struct Layer {
    explicit Layer(bool has_lora = true, std::uint64_t layer_index = 4, Index columns = 0)
        : index(layer_index),
          fold(columns),
          linear(has_lora ? std::optional(
                                LoraFactors<Cpu>{a.view(), b.view(), d_a.target(), d_b.target()})
                          : std::nullopt,
                 has_lora ? std::nullopt : std::optional(d_w.target()), scale, layer_index, fold),
          scratch(arena, {rows, rank, in}) {
        if (fold > 0) {
            fill_stored();
        }
    }

    // [W | s B ; A | 0]
    void fill_stored() {
        const auto from = [](View<Cpu, float, 2> x, View<Cpu, float, 2> to, float factor = 1) {
            convert(Stream<Cpu>(), {.x = x, .out = to, .scale = factor});
        };
        from(w.view(), weight());
        from(a.view(), below(weight(), rank));
        from(b.view(), behind(weight(), rank), scale);
    }
    View<Cpu, float, 2> weight() {
        return fold == 0 ? w.view() : stored.view().rows({0, out}).columns({0, in});
    }

    void forward(View<Cpu, float, 2> result, float beta, const DropoutPlan& plan) {
        if (beta == 0) {
            linear.forward(Stream<Cpu>(), {.x = x.view(), .weight = weight(), .y = result}, plan,
                           scratch);
        } else {
            linear.add(Stream<Cpu>(), {.x = x.view(), .weight = weight(), .residual = result}, plan,
                       scratch);
        }
    }
    void backward(View<Cpu, float, 2> d_x, float beta, const DropoutPlan& plan) {
        linear.backward(
            Stream<Cpu>(),
            {.d_y = d_y.view(), .x = x.view(), .weight = weight(), .d_x = d_x, .beta = beta}, plan,
            scratch);
    }

    std::uint64_t index;
    Index fold;
    Matrix x = Matrix::random(1, rows, in, 2 + fold);
    Matrix w = Matrix::random(2, out, in);
    Matrix a = Matrix::random(3, rank, in);
    Matrix b = Matrix::random(4, out, rank);
    Matrix stored{out + fold, in + fold};
    Matrix d_y = Matrix::random(5, rows, out, 3 + fold);
    Summed d_a{6, rank, in};  // what is there already stays in the sum
    Summed d_b{7, out, rank};
    Summed d_w{8, out, in};
    LoraLinear<Cpu> linear;
    Arena<Cpu> arena{"test", 1 << 16};
    LinearScratch<Cpu> scratch;
};

template <class S>
S product_element(const std::vector<S>& p, Index row, const std::vector<S>& q, Index column,
                  Index depth) {
    S sum = 0;
    for (Index k = 0; k < depth; ++k) {
        sum += p[static_cast<std::size_t>(row * depth + k)] *
               q[static_cast<std::size_t>(column * depth + k)];
    }
    return sum;
}

// p q' of a (rows of p) x (rows of q) product
template <class S>
std::vector<S> product(const std::vector<S>& p, const std::vector<S>& q, Index depth) {
    std::vector<S> result;
    for (Index r = 0; r < static_cast<Index>(p.size()) / depth; ++r) {
        for (Index c = 0; c < static_cast<Index>(q.size()) / depth; ++c) {
            result.push_back(product_element(p, r, q, c, depth));
        }
    }
    return result;
}

template <class S>
struct Operands {
    std::vector<S> x, w, a, b;
};

// y = x W' + s (x~ A') B',   x~ = m x / (1 - p)
template <class S>
std::vector<S> lora_linear(const Operands<S>& op, const std::vector<double>& m) {
    std::vector<S> dropped = op.x;
    for (std::size_t i = 0; i < dropped.size(); ++i) {
        dropped[i] *= m[i];
    }
    auto y = product(op.x, op.w, in);
    if (op.a.empty()) {
        return y;
    }
    const auto lora = product(product(dropped, op.a, in), op.b, rank);
    for (std::size_t i = 0; i < y.size(); ++i) {
        y[i] += static_cast<double>(scale) * lora[i];
    }
    return y;
}

template <class S>
Operands<S> operands(const Layer& layer, bool has_lora = true) {
    return {layer.x.values<S>(), layer.w.values<S>(),
            has_lora ? layer.a.values<S>() : std::vector<S>(),
            has_lora ? layer.b.values<S>() : std::vector<S>()};
}

using Complex = std::complex<double>;

// Gradient of sum d_y y by the operand that `of` picks.
std::vector<double> expected_gradient(const Layer& layer, const Operands<Complex>& at,
                                      std::vector<Complex> Operands<Complex>::*of,
                                      const std::vector<double>& m) {
    std::vector<double> point;
    for (const Complex& value : at.*of) {
        point.push_back(value.real());
    }
    const auto d_y = layer.d_y.values();
    return gradient(
        [&](const std::vector<Complex>& z) {
            Operands<Complex> op = at;
            op.*of = z;
            return dot(lora_linear(op, m), d_y);
        },
        point);
}

std::vector<double> sum(std::vector<double> x, const std::vector<double>& y, double factor = 1) {
    for (std::size_t i = 0; i < x.size(); ++i) {
        x[i] = factor * x[i] + y[i];
    }
    return x;
}

// What forward and backward are tried with.
struct Case {
    DropoutPlan plan;
    float beta;
    Index fold;
};
std::vector<Case> cases() {
    std::vector<Case> all;
    for (const DropoutPlan& plan : {no_dropout, some_dropout}) {
        for (const float beta : {0.0F, 1.0F}) {
            for (const Index fold : {0, 4}) {  // 4: more than the rank
                all.push_back({plan, beta, fold});
            }
        }
    }
    return all;
}

constexpr double tolerance = 1e-6;  // of the largest value: a few roundings of sums of 20 terms

}  // namespace

BOOST_AUTO_TEST_CASE(forward_agrees_with_the_formula) {
    for (const Case& at : cases()) {
        Layer layer(true, 4, at.fold);
        Matrix y = Matrix::random(9, rows, out, 1);
        const auto expected =
            sum(y.values(), lora_linear(operands<double>(layer), mask(at.plan, 4)), at.beta);
        layer.forward(y.view(), at.beta, at.plan);
        require_close("y", y.values(), expected, relative_tolerance(tolerance, expected));
        BOOST_TEST(y.gaps_are_intact());
    }
}

BOOST_AUTO_TEST_CASE(backward_is_the_derivative_with_and_without_dropout) {
    for (const auto& [plan, beta, fold] : cases()) {
        Layer layer(true, 4, fold);
        const auto m = mask(plan, layer.index);
        const auto at = operands<Complex>(layer);
        Matrix d_x = Matrix::random(10, rows, in, 2);
        const auto expected_x =
            sum(d_x.values(), expected_gradient(layer, at, &Operands<Complex>::x, m), beta);
        const auto expected_a =
            sum(layer.d_a.values(), expected_gradient(layer, at, &Operands<Complex>::a, m));
        const auto expected_b =
            sum(layer.d_b.values(), expected_gradient(layer, at, &Operands<Complex>::b, m));
        layer.backward(d_x.view(), beta, plan);
        require_close("d_x", d_x.values(), expected_x, relative_tolerance(tolerance, expected_x));
        require_close("d_a", layer.d_a.values(), expected_a,
                      relative_tolerance(tolerance, expected_a));
        require_close("d_b", layer.d_b.values(), expected_b,
                      relative_tolerance(tolerance, expected_b));
        BOOST_TEST(d_x.gaps_are_intact());
    }
}

BOOST_AUTO_TEST_CASE(a_trained_weight_gets_its_gradient_and_no_dropout) {
    Layer layer(false);
    BOOST_TEST(layer.linear.needs_input());
    const auto at = operands<Complex>(layer, false);
    const auto m = mask(no_dropout, 0);
    Matrix d_x(rows, in);
    const auto expected_w =
        sum(layer.d_w.values(), expected_gradient(layer, at, &Operands<Complex>::w, m));
    const auto expected_x = expected_gradient(layer, at, &Operands<Complex>::x, m);
    layer.backward(d_x.view(), 0, some_dropout);
    require_close("d_w", layer.d_w.values(), expected_w, relative_tolerance(tolerance, expected_w));
    require_close("d_x", d_x.values(), expected_x, relative_tolerance(tolerance, expected_x));

    Matrix y(rows, out);
    layer.forward(y.view(), 0, some_dropout);
    const auto expected = lora_linear(operands<double>(layer, false), m);
    require_close("y", y.values(), expected, relative_tolerance(tolerance, expected));
}

// x may then be anything, memory that is not there too: nothing of it is read.
BOOST_AUTO_TEST_CASE(a_frozen_weight_needs_no_input) {
    Layer layer;
    const LoraLinear<Cpu> frozen(std::nullopt, std::nullopt, scale, 0);
    BOOST_TEST(!frozen.needs_input());
    BOOST_TEST(layer.linear.needs_input());
    Matrix d_x(rows, in);
    Arena<Cpu> arena("test", 0);
    LinearScratch<Cpu> scratch(arena, {0, 0, 0});
    const View<Cpu, float, 2> nothing(nullptr, rows, in);
    frozen.backward(
        Stream<Cpu>(),
        {.d_y = layer.d_y.view(), .x = nothing, .weight = layer.w.view(), .d_x = d_x.view()},
        no_dropout, scratch);
    const auto m = mask(no_dropout, 0);
    const auto expected =
        expected_gradient(layer, operands<Complex>(layer, false), &Operands<Complex>::x, m);
    require_close("d_x", d_x.values(), expected, relative_tolerance(tolerance, expected));
}

// Shards and tiles must drop what the whole sequence drops.
BOOST_AUTO_TEST_CASE(the_mask_follows_the_absolute_position) {
    Layer layer;
    Matrix whole(rows, out);
    layer.forward(whole.view(), 0, some_dropout);
    Matrix part(rows, out);
    const Range last{2, rows};
    layer.linear.forward(
        Stream<Cpu>(),
        {.x = layer.x.view().rows(last), .weight = layer.w.view(), .y = part.view().rows(last)},
        some_dropout.at_row(2), layer.scratch);
    const auto expected = whole.values();
    const std::vector<double> tail(expected.begin() + 2 * out, expected.end());
    const auto actual = part.values();
    const std::vector<double> actual_tail(actual.begin() + 2 * out, actual.end());
    require_close("rows 2 ..", actual_tail, tail, relative_tolerance(tolerance, tail));
}

BOOST_AUTO_TEST_CASE(every_layer_has_a_mask_of_its_own) {
    BOOST_TEST(mask(some_dropout, 4) != mask(some_dropout, 5));
    DropoutPlan other_step = some_dropout;
    other_step.key = 100;
    BOOST_TEST(mask(some_dropout, 4) != mask(other_step, 4));
    Layer first(true, 4);
    Layer second(true, 5);
    Matrix y1(rows, out);
    Matrix y2(rows, out);
    first.forward(y1.view(), 0, some_dropout);
    second.forward(y2.view(), 0, some_dropout);
    BOOST_TEST(y1.values() != y2.values());
}
