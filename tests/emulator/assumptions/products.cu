#include "emulator/assumptions/assumption.hpp"
#include "emulator/assumptions/product_kernel.cuh"

// Single products: registers first, then how each kind of operand is found in shared memory.

namespace longlora {
namespace {

// ---- registers ----

constexpr auto one = [](int, int) { return 1; };
constexpr auto identity = [](int row, int column) { return row % 16 == column % 16 ? 1 : 0; };

template <int registers>
std::string product_of_ones(const Start& start, float expected) {
    const Tile ones = tile_of(2 * registers, 64, one);
    const auto c = multiply<Major::sum, registers>(fragments_of(one), ones, 0, 0, start);
    return compare_c(c, registers, [expected](int, int) { return expected; });
}
std::string products_overwrite() { return product_of_ones<32>({-7, false}, 16); }
std::string products_overwrite_wide() { return product_of_ones<64>({-7, false}, 16); }
std::string products_accumulate() { return product_of_ones<32>({-7, true}, 9); }

// The same number in each step, so that only c's columns count.
template <int registers>
std::string columns_of_c() {
    const Tile columns = tile_of(2 * registers, 64, [](int row, int) { return row; });
    const auto c = multiply<Major::sum, registers>(fragments_of(one), columns, 0, 0);
    return compare_c(c, registers, [](int, int column) { return 16 * column; });
}
std::string rows_of_registers() {
    const auto rows = fragments_of([](int row, int) { return row; });
    const auto c = multiply<Major::sum, 32>(rows, tile_of(64, 64, one), 0, 0);
    return compare_c(c, 32, [](int row, int) { return 16 * row; });
}
// b is an identity in each 16 columns.
std::string steps_of_registers() {
    const auto a = fragments_of([](int row, int step) { return row + 16 * step % 64 + step; });
    const auto c = multiply<Major::sum, 32>(a, tile_of(64, 64, identity), 0, 0);
    return compare_c(c, 32, [](int row, int column) {
        const int step = column % 16;
        return row + 16 * step % 64 + step;
    });
}

// ---- operands in shared memory: which element of the tile is read where another is meant ----

// c of two products: with the tile's rows as its elements, and with its columns.
struct Seen {
    std::vector<float> rows;
    std::vector<float> columns;
};

// meant(row of c, column of c): the tile's element (row, column)
template <int registers, class Meant>
std::string compare_places(const Seen& seen, const Meant& meant) {
    for (int t = 0; t < 128; ++t) {
        for (int i = 0; i < registers; ++i) {
            const auto [row, column] = place_in_c(t, i);
            const std::pair<int, int> right = meant(row, column);
            const auto at = static_cast<std::size_t>(t * registers + i);
            if (seen.rows[at] != static_cast<float>(right.first) ||
                seen.columns[at] != static_cast<float>(right.second)) {
                return "c(" + std::to_string(row) + ", " + std::to_string(column) +
                       "): read from row " + std::to_string(seen.rows[at]) + ", column " +
                       std::to_string(seen.columns[at]) + " of the tile, not (" +
                       std::to_string(right.first) + ", " + std::to_string(right.second) + ")";
            }
        }
    }
    return "";
}

constexpr auto row_number = [](int row, int) { return row; };
constexpr auto column_number = [](int, int column) { return column; };

// Where steps of 16 of the sum's index are in a tile.
template <Major major>
int advance_of(int step, int rows) {
    return major == Major::sum ? step % 4 * 32 + step / 4 * 128 * rows : 2048 * step;
}

// The right operand of all steps: the rows of c are those of an identity, so that
// c(row, n) = b(row % 16, n).
template <Major right, int registers>
std::string right_operand(int rows, int columns, int steps, int first_column = 0) {
    const auto a = fragments_of(identity);
    const int begin = first_column / 64 * 128 * rows;
    for (int step = 0; step < steps; ++step) {
        const int advance = advance_of<right>(step, rows);
        const auto c_of = [&](const auto& value) {
            return multiply<right, registers>(a, tile_of(rows, columns, value), begin, advance);
        };
        const std::string difference = compare_places<registers>(
            {c_of(row_number), c_of(column_number)}, [&](int row, int column) {
                const int k = 16 * step + row % 16;
                return right == Major::sum ? std::pair(column, k)
                                           : std::pair(k, first_column + column);
            });
        if (!difference.empty()) {
            return "step " + std::to_string(step) + ", " + difference;
        }
    }
    return "";
}

// The left operand of all steps, from row (of the outer index) 64 `half` on: c(m, n) = a(m, n % 16).
template <Major left, Major right>
std::string left_operand(int rows, int columns, int steps, int half) {
    const Tile b = tile_of(64, 64, identity);
    const int begin = left == Major::sum ? half * 64 * 128 : half * 128 * rows;
    for (int step = 0; step < steps; ++step) {
        const int advance = advance_of<left>(step, rows);
        const auto c_of = [&](const auto& value) {
            return multiply<left, right, 32>(tile_of(rows, columns, value), begin, advance, b);
        };
        const std::string difference =
            compare_places<32>({c_of(row_number), c_of(column_number)}, [&](int row, int column) {
                const int k = 16 * step + column % 16;
                return left == Major::sum ? std::pair(64 * half + row, k)
                                          : std::pair(k, 64 * half + row);
            });
        if (!difference.empty()) {
            return "step " + std::to_string(step) + ", " + difference;
        }
    }
    return "";
}

constexpr Major sum = Major::sum;
constexpr Major outer = Major::outer;

std::string right_sum_narrow() { return right_operand<sum, 32>(64, 64, 1); }
std::string right_sum_steps() { return right_operand<sum, 32>(64, 64, 4); }
std::string right_sum_blocks() { return right_operand<sum, 32>(64, 128, 8); }
std::string right_sum_wide() { return right_operand<sum, 64>(128, 128, 8); }
std::string right_outer_narrow() { return right_operand<outer, 32>(64, 64, 1); }
std::string right_outer_steps() { return right_operand<outer, 32>(64, 64, 4); }
std::string right_outer_wide() { return right_operand<outer, 64>(64, 128, 4); }
std::string right_outer_wide_long() { return right_operand<outer, 64>(128, 128, 8); }
std::string right_outer_half() { return right_operand<outer, 32>(128, 128, 8, 64); }
std::string left_sum_steps() { return left_operand<sum, sum>(64, 64, 4, 0); }
std::string left_sum_halves() {
    const std::string lower = left_operand<sum, sum>(128, 128, 8, 0);
    return lower.empty() ? left_operand<sum, sum>(128, 128, 8, 1) : lower;
}
std::string left_outer_steps() { return left_operand<outer, sum>(64, 64, 4, 0); }
std::string left_outer_long() { return left_operand<outer, outer>(128, 64, 8, 0); }
std::string left_sum_right_outer() { return left_operand<sum, outer>(64, 128, 8, 0); }

}  // namespace

std::vector<Assumption> assumptions_of_products() {
    return {
        {"a product without accumulation overwrites c, 64 columns", products_overwrite},
        {"the same, 128 columns", products_overwrite_wide},
        {"a product with accumulation adds to c", products_accumulate},
        {"columns of c in registers, 64", columns_of_c<32>},
        {"columns of c in registers, 128", columns_of_c<64>},
        {"rows of c, and of a in registers", rows_of_registers},
        {"steps of a in registers", steps_of_registers},
        {"right operand <sum>, 64 columns: 8 rows of 128 bytes, then SBO = 1,024; swizzle",
         right_sum_narrow},
        {"right operand <sum>: steps of 32 bytes within 64 columns of the tile", right_sum_steps},
        {"right operand <sum>: the tile's next 64 columns after rows x 128 bytes",
         right_sum_blocks},
        {"right operand <sum>, 128 columns", right_sum_wide},
        {"right operand <outer>, 64 columns: 8 steps of 128 bytes, then SBO = 1,024",
         right_outer_narrow},
        {"right operand <outer>: steps of 2,048 bytes", right_outer_steps},
        {"right operand <outer>, 128 columns: LBO = rows x 128 to the next 64, 64 rows",
         right_outer_wide},
        {"right operand <outer>, 128 columns, 128 rows", right_outer_wide_long},
        {"right operand <outer>: columns 64 to 127 of a tile alone", right_outer_half},
        {"left operand <sum> in shared memory", left_sum_steps},
        {"left operand <sum>: upper and lower 64 rows of a tile, 128 columns", left_sum_halves},
        {"left operand <outer> (transposed)", left_outer_steps},
        {"both operands <outer>, 128 rows", left_outer_long},
        {"left operand <sum>, right operand <outer>", left_sum_right_outer},
    };
}

}  // namespace longlora
