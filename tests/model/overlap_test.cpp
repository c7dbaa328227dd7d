// The halo travels while the attention that does not need it is computed: its sender is held back
// until the receiver has reported that its own part is done, and then for 300 ms more.
#include <chrono>
#include <thread>

#include <boost/test/unit_test.hpp>

#include "model/tiny_model.hpp"
#include "train/two_pass.hpp"

using namespace longlora;
using namespace longlora::test;

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds delay{300};

struct Event {
    std::string name;
    Clock::time_point time;
};

// Rank r sends to r + 1. Sender and receiver of the first border, one layer, one chunk.
class HeldBack {
public:
    explicit HeldBack(ContextExchange<Cpu>& exchange) {
        exchange.set_observer([this](std::string_view event) { observe(std::string(event)); });
    }

    const std::vector<Event>& events() const { return events_; }

private:
    void observe(const std::string& event) {
        events_.push_back({event, Clock::now()});
        std::int32_t token = 0;
        if (world_.rank() == 0 && event == "send") {
            // If the receiver waited for the halo first, this would never come (timeout below).
            world_.receive(View<Cpu, std::int32_t, 1>(&token, 1), 1, tag).wait();
            std::this_thread::sleep_for(delay);
        }
        if (world_.rank() == 1 && event == "own attention done") {
            world_.send(View<Cpu, const std::int32_t, 1>(&token, 1), 0, tag).wait();
        }
    }

    static constexpr int tag = 1;
    Communicator<Cpu> world_ =
        Communicator<Cpu>::world().split(0, Communicator<Cpu>::world().rank());
    std::vector<Event> events_;
};

Clock::time_point time_of(const std::vector<Event>& events, const std::string& name) {
    for (const Event& event : events) {
        if (event.name == name) {
            return event.time;
        }
    }
    BOOST_TEST(false, "no event " << name);
    return {};
}

}  // namespace

BOOST_AUTO_TEST_CASE(own_attention_is_done_while_the_halo_is_late) {
    set_communication_timeout(60);
    const auto world = Communicator<Cpu>::world();
    LlamaConfig config = tiny_config();
    config.layers = 1;
    TinyModel model(config, tiny_tune());
    const Index ranks = world.size();
    const Layout layout{.length = 32 * ranks, .group = 16, .ranks = ranks};
    Arena<Cpu> arena("test", 1 << 24);
    TwoPass<Cpu> pass(arena, {config, tiny_tune(), layout, ActivationPolicy::keep}, world.rank());
    PhaseTimer timer;
    pass.connect(world, timer);
    const HeldBack held(pass.exchange());

    const auto read = [](Range range, std::span<std::int32_t> tokens,
                         std::span<std::int32_t> labels) {
        for (Index i = 0; i < range.size(); ++i) {
            tokens[static_cast<std::size_t>(i)] = static_cast<std::int32_t>((range.begin + i) % 23);
            labels[static_cast<std::size_t>(i)] =
                static_cast<std::int32_t>((range.begin + i + 1) % 23);
        }
    };
    pass.run(model.llama, Stream<Cpu>(), {read, 1.0F / static_cast<float>(layout.length), 0},
             [] { return false; });
    set_communication_timeout(600);

    if (world.rank() == 1) {
        const auto done = time_of(held.events(), "own attention done");
        const auto arrived = time_of(held.events(), "block arrived");
        BOOST_TEST((arrived - done >= delay - std::chrono::milliseconds(1)));
        BOOST_TEST(timer.seconds(Phase::halo_wait) > 0.9 * 0.3);  // the wait has a name in log.h5
    }
}
