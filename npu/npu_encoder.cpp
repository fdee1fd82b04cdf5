#include "npu/npu_encoder.h"

#include <pthread.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <functional>
#include <mutex>
#include <thread>

#include "kernels/cpu/profile.h"
#include "kernels/cpu/thread_pool.h"
#include "npu/device_model.h"
#include "npu/rows.h"
#include "whisper/encoder_schedule.h"
#include "whisper/error.h"
#include "whisper/quantize.h"
#include "whisper/slotted_encoder.h"

namespace whisperxdna2::npu {
namespace {

// Rows of a piece of host work.
constexpr int kPieceRows = 32;

// Asks for short turns on a processor: a thread that wakes has one at once then, although all are busy, for as little
// as it does between two commands. From Linux 6.12; before, and where it is refused, it comes later.
void run_soon_when_awake() {
  if (sched_getscheduler(0) != SCHED_OTHER) return;
  struct {
    uint32_t size = 48, policy = SCHED_OTHER;
    uint64_t flags = 0;
    int32_t nice = 0;
    uint32_t priority = 0;
    uint64_t runtime_ns = 100000, deadline_ns = 0, period_ns = 0;
  } attributes;  // the kernel's sched_attr, first version
  static_assert(sizeof attributes == 48);
  attributes.nice = getpriority(PRIO_PROCESS, 0);
  syscall(SYS_sched_setattr, 0, &attributes, 0);
}

// Of some rows of inputs and of results.
size_t a_size(const PlannedProduct& p, int rows) { return static_cast<size_t>(rows) * p.shape.k_bytes; }
size_t c_size(const PlannedProduct& p, int rows) { return static_cast<size_t>(rows) * p.shape.n * p.shape.planes; }

// One slot's buffers for one window length, and the commands of all layers bound to them.
struct Binding {
  std::shared_ptr<DeviceModel> model;
  Buffer inputs;   // [rows][k] of qkv, out, fc1
  Buffer hidden;   // fc1's results in two planes; only the NPU touches it
  Buffer results;  // [rows][n * planes] of qkv, out, fc2
  struct Layer {
    const LayerPlan* plan;
    std::vector<Command> qkv, out, fc1, fc2;
  };
  std::vector<Layer> layers;

  Binding(std::shared_ptr<DeviceModel> m, int positions, std::optional<PlanKind> kind) : model(std::move(m)) {
    ProfileScope scope("npu build", 0);
    Device& device = model->device();
    size_t a = 0, hidden_size = 0, c = 0;
    for (int i = 0; i < model->layers(); ++i) {
      const LayerPlan& plan = model->streams(positions, i, kind).plan;
      for (const PlannedProduct* p : {&plan.qkv, &plan.out, &plan.fc1}) a = std::max(a, a_size(*p, plan.rows));
      for (const PlannedProduct* p : {&plan.qkv, &plan.out, &plan.fc2}) c = std::max(c, c_size(*p, plan.rows));
      hidden_size = std::max(hidden_size, c_size(plan.fc1, plan.rows));
    }
    inputs = device.make_buffer(a);
    hidden = device.make_buffer(hidden_size);
    results = device.make_buffer(c);
    for (int i = 0; i < model->layers(); ++i) {
      const DeviceModel::Streams* const streams = &model->streams(positions, i, kind);
      const LayerPlan& plan = streams->plan;
      const xrt::bo weights = model->layer_weights(i);
      const auto bind = [&](const PlannedProduct& p, const std::vector<xrt::bo>& instructions,
                            const std::vector<xrt::bo>& buffers) {
        std::vector<Command> commands;
        for (size_t d = 0; d < instructions.size(); ++d) {
          commands.push_back(device.prepare(instructions[d], buffers, p.dispatches[d].predicted_us));
        }
        return commands;
      };
      Layer& l = layers.emplace_back();
      l.plan = &plan;
      l.qkv = bind(plan.qkv, streams->qkv, {inputs.bo(), weights, results.bo()});
      l.out = bind(plan.out, streams->out, {inputs.bo(), weights, results.bo()});
      // The fourth buffer is for a stream that goes on with fc2.
      l.fc1 = bind(plan.fc1, streams->fc1, {inputs.bo(), weights, hidden.bo(), results.bo()});
      l.fc2 = bind(plan.fc2, streams->fc2, {hidden.bo(), weights, results.bo()});
    }
  }

  std::vector<Command> in_flight() const {
    std::vector<Command> commands;
    for (const Layer& l : layers) {
      for (const auto* list : {&l.qkv, &l.out, &l.fc1, &l.fc2}) {
        std::copy_if(list->begin(), list->end(), std::back_inserter(commands),
                     [](const Command& c) { return c.in_flight; });
      }
    }
    return commands;
  }
};

// What the encoder's slots have in common.
struct Shared {
  std::shared_ptr<const Model> model;
  int threads = 1;
  bool cpu_may_finish = false;
  std::optional<PlanKind> kind;
  // Of the slot whose commands follow each other closely: from a layer's out to the next one's qkv, between which the
  // processor has little to do. The other slot's attention lies beside it, instead of both slots' attentions.
  FairMutex turn;
  std::atomic<int> windows{0};  // being encoded
  std::atomic<uint64_t> dispatches{0};
  std::mutex mutex;  // of what follows
  std::string device, firmware;
  std::string fault;  // why the CPU does the work; empty while the NPU does
};

// The layer schedule with products on the NPU.
class NpuSchedule : public EncoderSchedule {
 public:
  NpuSchedule(std::shared_ptr<const PackedEncoder> weights, Shared& shared)
      : EncoderSchedule(std::move(weights), shared.threads), shared_(shared), turn_(shared.turn, std::defer_lock) {
    std::lock_guard<std::mutex> lock(everyone().mutex);
    everyone().schedules.push_back(this);
  }
  ~NpuSchedule() override {
    {
      std::lock_guard<std::mutex> lock(everyone().mutex);
      auto& all = everyone().schedules;
      all.erase(std::find(all.begin(), all.end(), this));
    }
    release();
  }

  // Binds the device ahead of the first window.
  void get_ready(int positions) {
    std::lock_guard<std::mutex> lock(running_);
    prepare(positions);
  }
  bool encode(const SlottedEncoder::Window& w) {
    std::lock_guard<std::mutex> lock(running_);
    prepare(w.positions);
    struct Counted {
      std::atomic<int>& windows;
      explicit Counted(std::atomic<int>& w) : windows(w) { ++windows; }
      ~Counted() { --windows; }
    } const counted(shared_.windows);
    const bool done = run(w.mel, w.positions, w.features, w.abandoned);
    if (turn_) turn_.unlock();  // where it was abandoned in its turn
    return done;
  }

 private:
  // Gets hold of the device, or does without it if the CPU may take over.
  void prepare(int positions) {
    if (binding_ && binding_->model->device().failed()) release();
    const int rows = (positions + overlay::kRowBlock - 1) / overlay::kRowBlock * overlay::kRowBlock;
    if (binding_ && binding_->layers.at(0).plan->rows == rows) return;
    if (!binding_) let_go_of_failed_devices();
    const bool bound = attempt([&] {
      const std::shared_ptr<Device> device = Device::open();
      try {
        const auto model = binding_ ? binding_->model : DeviceModel::get(device, shared_.model, shared_.threads);
        binding_ = std::make_shared<Binding>(model, positions, shared_.kind);
      } catch (const Error& e) {
        if (e.code() == ErrorCode::kDevice) device->fail();
        throw;
      }
      std::lock_guard<std::mutex> lock(shared_.mutex);
      shared_.device = device->name();
      shared_.firmware = device->firmware();
      shared_.fault.clear();
    });
    if (!bound) Device::leave_alone_for_a_while();
  }
  // A device that failed is opened anew when all have let go of it, and those who have no window now would not.
  void let_go_of_failed_devices() {
    std::lock_guard<std::mutex> lock(everyone().mutex);
    for (NpuSchedule* other : everyone().schedules) {
      if (other == this) continue;
      std::unique_lock<std::mutex> idle(other->running_, std::try_to_lock);
      if (idle && other->binding_ && other->binding_->model->device().failed()) other->release();
    }
  }
  // Lets go of the device, with what it may still be working on.
  void release() {
    if (turn_) turn_.unlock();
    if (!binding_) return;
    std::vector<Command> commands = binding_->in_flight();
    if (!commands.empty()) Device::bury(binding_->model->shared_device(), std::move(commands), binding_);
    binding_.reset();
  }

 protected:
  // While both slots have windows, half of the threads for each: a thread that wakes between two commands finds a
  // processor.
  int threads() const override {
    const int all = EncoderSchedule::threads();
    return shared_.windows > 1 ? (all + 1) / 2 : all;
  }

  void int8_attention(int layer, int positions, const Workers& workers) override {
    const bool done = binding_ && attempt([&] {
      const PackedInt8Layer& l = weights().int8_layers[layer];
      Binding::Layer& commands = binding_->layers[layer];
      const LayerPlan& plan = *commands.plan;
      const DeviceModel::Scales& scales = binding_->model->scales(layer);
      if (layer == 0) {
        for_rows(positions, workers, "layer norm",
                 [&](int row) { norm_row(l.attention_norm, l.inverse_qkv_input, plan.qkv, row); });
      }
      if (*workers.abandoned) return;
      sync_inputs(plan.qkv, positions);
      if (!turn_) turn_.lock();
      execute("npu qkv", plan.qkv, commands.qkv, true);
      sync_results(plan.qkv, positions);
      row_units_.resize(positions);
      attend(layer, result(plan.qkv, 0), plan.qkv.shape.n, positions,
             {input(plan.out, 0), plan.out.shape.k_bytes, input_of(plan.out), row_units_.data()}, workers);
      if (*workers.abandoned) return;
      sync_inputs(plan.out, positions);
      turn_.lock();
      execute("npu out", plan.out, commands.out);
      sync_results(plan.out, positions);
      const auto add = [&](int row) {
        const int8_t* hi = result(plan.out, row);
        add_row(hi, low_plane(plan.out, hi), scales.out.data(), row_units_[row], scales.out_bias.data(), plan.out.out,
                stream(row));
      };
      add_and_norm(add, l.mlp_norm, l.inverse_fc1_input, plan.fc1, positions, workers);
    });
    if (!done) EncoderSchedule::int8_attention(layer, positions, workers);
  }

  void int8_mlp(int layer, int positions, const Workers& workers) override {
    const bool done = binding_ && attempt([&] {
      Binding::Layer& commands = binding_->layers[layer];
      const LayerPlan& plan = *commands.plan;
      const std::vector<float>& scale = binding_->model->scales(layer).fc2;
      if (*workers.abandoned) return;
      sync_inputs(plan.fc1, positions);
      const bool last = layer + 1 == binding_->model->layers();
      execute("npu fc1, GELU", plan.fc1, commands.fc1, last && commands.fc2.empty());
      execute("npu fc2", plan.fc2, commands.fc2, last);
      sync_results(plan.fc2, positions);
      const auto add = [&](int row) {
        const int8_t* hi = result(plan.fc2, row);
        add_row(hi, low_plane(plan.fc2, hi), scale.data(), plan.fc2.out, stream(row));
      };
      if (last) {
        for_rows(positions, workers, "npu add, norm", add);
      } else {
        const PackedInt8Layer& next = weights().int8_layers[layer + 1];
        add_and_norm(add, next.attention_norm, next.inverse_qkv_input, binding_->layers[layer + 1].plan->qkv, positions,
                     workers);
      }
    });
    if (!done) EncoderSchedule::int8_mlp(layer, positions, workers);
  }

 private:
  // False if `work` failed and the CPU may do it. Until a half's last sum nothing of it is in the residual stream.
  bool attempt(const std::function<void()>& work) {
    std::optional<Error> failure;
    try {
      work();
      return true;
    } catch (const Error& e) {
      failure = e;
    } catch (const std::exception& e) {
      failure = explain(e);
    }
    if (binding_ && failure->code() == ErrorCode::kDevice) binding_->model->device().fail();
    release();
    std::string first_fault;  // what the other slot met may be a consequence
    {
      std::lock_guard<std::mutex> lock(shared_.mutex);
      if (shared_.fault.empty()) shared_.fault = failure->what();
      first_fault = shared_.fault;
    }
    if (shared_.cpu_may_finish) return false;
    const bool resource = failure->code() == ErrorCode::kNoResource;
    throw Error(resource ? ErrorCode::kNoResource : ErrorCode::kDevice, first_fault);
  }

  template <class Body>
  void for_rows(int rows, const Workers& workers, const char* name, const Body& body) {
    ProfileScope scope(name, 0);
    ThreadPool::instance().parallel_for(workers, (rows + kPieceRows - 1) / kPieceRows, [&](int piece) {
      for (int r = piece * kPieceRows; r < std::min(rows, (piece + 1) * kPieceRows); ++r) body(r);
    });
  }
  uint8_t* input(const PlannedProduct& p, int row) const { return binding_->inputs.data() + a_size(p, row); }
  // What the product takes: int8, or 14 bits in planes.
  static Int8Input input_of(const PlannedProduct& p) {
    if (p.input_planes == 1) return {Int8Format::kBytes};
    return {Int8Format::kPlanes, kInt14Limit, p.shape.k_bytes / 2};
  }
  const int8_t* result(const PlannedProduct& p, int row) const {
    return reinterpret_cast<const int8_t*>(binding_->results.data()) + c_size(p, row);
  }

  static const uint8_t* low_plane(const PlannedProduct& p, const int8_t* high) {
    return reinterpret_cast<const uint8_t*>(high) + p.shape.n;
  }
  float* stream(int row) { return &x_[static_cast<size_t>(row) * weights().dims.d_model]; }

  // A row of the residual stream -> inputs of the next product.
  void norm_row(const PackedNorm& n, float inverse_scale, const PlannedProduct& next, int row) {
    const int d = weights().dims.d_model;
    thread_local std::vector<float> normed;
    normed.resize(d);
    f32_kernels().layer_norm(stream(row), 1, d, n.gain.data(), n.bias.data(), normed.data());
    int8_kernels().quantize(normed.data(), d, inverse_scale, input_of(next), input(next, row));
  }
  // The end of a half, which adds its results to the row of the residual stream, and the begin of the next one, while
  // the row is in the first cache.
  template <class Add>
  void add_and_norm(const Add& add, const PackedNorm& n, float inverse_scale, const PlannedProduct& next, int positions,
                    const Workers& workers) {
    for_rows(positions, workers, "npu add, norm", [&](int row) {
      add(row);
      norm_row(n, inverse_scale, next, row);
    });
  }

  void sync_inputs(const PlannedProduct& p, int positions) {
    ProfileScope scope("npu sync", 0);
    binding_->inputs.to_device(a_size(p, positions));
  }
  void sync_results(const PlannedProduct& p, int positions) {
    ProfileScope scope("npu sync", 0);
    binding_->results.from_device(c_size(p, positions));
  }
  // ends_turn: the other slot's commands may follow as soon as the last of these has been started.
  void execute(const char* name, const PlannedProduct& p, std::vector<Command>& commands, bool ends_turn = false) {
    for (size_t d = 0; d < commands.size(); ++d) {
      ProfileScope scope(name, static_cast<int64_t>(2 * p.dispatches[d].macs));
      binding_->model->device().execute(commands[d], [&] {
        if (ends_turn && d + 1 == commands.size()) turn_.unlock();
      });
      ++shared_.dispatches;
    }
  }
  // Of the process.
  struct Everyone {
    std::mutex mutex;
    std::vector<NpuSchedule*> schedules;
  };
  static Everyone& everyone() {
    static Everyone* e = new Everyone;  // never destroyed, as the devices that its members hold
    return *e;
  }

  Shared& shared_;
  std::mutex running_;  // held while the slot has a window; guards what follows
  std::unique_lock<FairMutex> turn_;
  std::shared_ptr<Binding> binding_;  // null: the CPU computes
};

class NpuEncoder : public SlottedEncoder {
 public:
  NpuEncoder(const std::shared_ptr<const Model>& model, int threads, bool cpu_may_finish, std::optional<PlanKind> kind)
      : SlottedEncoder(model->dims.d_model, model->dims.n_audio_ctx, "the NPU") {
    shared_.model = model;
    shared_.threads = threads;
    shared_.kind = kind;
    const std::shared_ptr<Device> device = Device::open();
    const auto held = DeviceModel::get(device, model, threads);
    const auto weights = packed_int8_encoder(model, [&] { return quantized_encoder(model, threads); });
    for (auto& schedule : schedules_) {
      schedule = std::make_unique<NpuSchedule>(weights, shared_);
      schedule->get_ready(std::min(kUsualPositions, model->dims.n_audio_ctx));
    }
    shared_.cpu_may_finish = cpu_may_finish;
    for (int slot = 0; slot < kSlots; ++slot) threads_[slot] = std::thread([this, slot] { run(slot); });
  }

  ~NpuEncoder() override {
    stop();
    for (std::thread& t : threads_) t.join();
  }

  EncoderInfo describe() const override {
    std::lock_guard<std::mutex> lock(shared_.mutex);
    return {shared_.fault.empty() ? "npu" : "cpu", shared_.device, shared_.firmware, "int8", shared_.fault,
            shared_.dispatches};
  }

 private:
  // Bound before the first window comes.
  static constexpr int kUsualPositions = 512;

  // A slot's thread.
  void run(int slot) {
    pthread_setname_np(pthread_self(), "npu-encoder");
    prctl(PR_SET_TIMERSLACK, 1000);  // ns: the device's end is looked for at intervals of microseconds
    run_soon_when_awake();
    serve(slot, [&](const Window& w) { return schedules_[slot]->encode(w); });
  }

  mutable Shared shared_;
  std::array<std::unique_ptr<NpuSchedule>, kSlots> schedules_;  // each for its slot's thread, once there is one
  std::array<std::thread, kSlots> threads_;                     // last: they use everything above
};

}  // namespace

std::unique_ptr<Encoder> make_npu_encoder(std::shared_ptr<const Model> model, Precision precision, int threads,
                                          bool cpu_may_finish, std::optional<PlanKind> kind) {
  if (precision != Precision::kInt8 && precision != Precision::kAuto) {
    throw Error(ErrorCode::kUnsupported, "the NPU encodes in int8 only: use precision=auto or int8, or backend=cpu");
  }
  const int n = threads > 0 ? threads : ThreadPool::available_processors();
  return std::make_unique<NpuEncoder>(model, n, cpu_may_finish, kind);
}

}  // namespace whisperxdna2::npu
