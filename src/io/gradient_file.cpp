#include "io/gradient_file.hpp"

#include "core/error.hpp"
#include "io/durable.hpp"
#include "io/hdf5.hpp"

namespace longlora {

void write_gradients(const std::string& path, std::span<const CheckpointTensor> tensors,
                     std::span<const float> gradient, double loss) {
    make_folders(folder_of(path));
    UnfinishedFile unfinished(path);
    Hdf5File file = Hdf5File::create(unfinished.path());
    file.create_group("/gradients", tensors.size());
    for (const CheckpointTensor& tensor : tensors) {
        ensure(tensor.offset + tensor.size() <= static_cast<Index>(gradient.size()),
               "the gradient ends before " + tensor.name);
        file.create_dataset("/gradients/" + tensor.name,
                            {.type = Hdf5Type::float32, .shape = tensor.shape()})
            .write(Range{0, tensor.size()},
                   gradient.subspan(static_cast<std::size_t>(tensor.offset),
                                    static_cast<std::size_t>(tensor.size())));
    }
    file.create_dataset("/loss", {.type = Hdf5Type::float64})
        .write(Range{0, 1}, std::span<const double>(&loss, 1));
    file.close();
    unfinished.publish();
}

}  // namespace longlora
