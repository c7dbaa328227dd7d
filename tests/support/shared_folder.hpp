#pragma once

#include <memory>
#include <string>

#include "comm/communicator.hpp"
#include "support/files.hpp"

namespace longlora::test {

// One fresh folder for all ranks, which goes away when all have ended with it.
class SharedFolder {
public:
    SharedFolder() {
        const auto world = Communicator<Cpu>::world();
        if (world.rank() == 0) {
            mine_ = std::make_unique<TemporaryFolder>();
        }
        path_ = world.broadcast_text(mine_ ? mine_->path().string() : "", 0);
    }
    ~SharedFolder() { Communicator<Cpu>::world().barrier(); }
    SharedFolder(const SharedFolder&) = delete;
    SharedFolder& operator=(const SharedFolder&) = delete;

    const std::string& path() const { return path_; }
    std::string operator/(const std::string& name) const { return path_ + "/" + name; }

private:
    std::unique_ptr<TemporaryFolder> mine_;
    std::string path_;
};

}  // namespace longlora::test
