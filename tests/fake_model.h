// A model of the right shape and no sense: one layer each, random weights, an invented vocabulary.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "whisper/model.h"
#include "whisper/tokenizer.h"

namespace whisperxdna2 {

struct FakeModel : Model {
  std::vector<std::shared_ptr<const void>> storage;  // what the tensors point into
};

inline std::shared_ptr<const Model> make_fake_model(int d_model = 64, uint32_t seed = 1) {
  auto model = std::make_shared<FakeModel>();
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 0.05f);
  const auto tensor = [&](std::vector<int> shape, float fill, bool noise) {
    Tensor t;
    t.shape = std::move(shape);
    auto data = std::make_shared<std::vector<float>>(t.elements(), fill);
    if (noise) {
      for (float& x : *data) x = normal(random);
    }
    t.data = data->data();
    model->storage.push_back(data);
    return t;
  };
  const auto weights = [&](std::vector<int> shape) { return tensor(std::move(shape), 0, true); };
  const auto norm = [&] { return LayerNorm{tensor({d_model}, 1, false), tensor({d_model}, 0, false)}; };
  const auto linear = [&](int out, int in) { return Linear{weights({out, in}), weights({out})}; };
  const auto attention = [&] {
    Attention a{linear(d_model, d_model), linear(d_model, d_model), linear(d_model, d_model), linear(d_model, d_model)};
    a.key.bias = Tensor();
    return a;
  };

  model->dims = {80, 1500, d_model, d_model / 64, 1, 1, 448, 51865};
  model->source = model->description = model->content_key = "fake";
  model->conv1_weight = weights({d_model, 80, 3});
  model->conv1_bias = weights({d_model});
  model->conv2_weight = weights({d_model, d_model, 3});
  model->conv2_bias = weights({d_model});
  model->encoder_positions = weights({1500, d_model});
  model->encoder_layers = {{norm(), attention(), norm(), linear(4 * d_model, d_model), linear(d_model, 4 * d_model)}};
  model->encoder_norm = norm();
  model->token_embedding = weights({51865, d_model});
  model->decoder_positions = weights({448, d_model});
  model->decoder_layers = {
      {norm(), attention(), norm(), attention(), norm(), linear(4 * d_model, d_model), linear(d_model, 4 * d_model)}};
  model->decoder_norm = norm();
  model->alignment_heads = {{0, 0}};

  std::vector<std::string> tokens;
  for (int i = 0; i < 256; ++i) tokens.push_back(std::string(1, static_cast<char>(i)));
  while (tokens.size() < 50256) tokens.push_back(" t" + std::to_string(tokens.size()));
  tokens.push_back("");
  model->tokenizer = std::make_shared<Tokenizer>(std::move(tokens), 51865);
  return model;
}

}  // namespace whisperxdna2
