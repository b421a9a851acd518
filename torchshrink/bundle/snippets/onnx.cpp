// @FILE@ in ONNX Runtime: c++ -std=c++17 model.cpp -lonnxruntime
// Input "@INPUT@" float32 @INPUT_SHAPE@, output "@OUTPUT@" float32 @OUTPUT_SHAPE@, channels first.
#include <onnxruntime_cxx_api.h>

#include <array>
#include <vector>

constexpr float kMean[] = {@MEAN@}, kStd[] = {@STD@};  // of @RAW@

// `raw` holds @INPUT_COUNT@ values, channels first; the result @OUTPUT_COUNT@.
std::vector<float> run(Ort::Session& session, std::vector<float> raw) {
  const size_t plane = raw.size() / @CHANNELS@;
  for (size_t i = 0; i < raw.size(); ++i) raw[i] = (raw[i] - kMean[i / plane]) / kStd[i / plane];
  const std::vector<int64_t> shape = {@INPUT_SIDES@};
  const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  auto input = Ort::Value::CreateTensor<float>(memory, raw.data(), raw.size(), shape.data(), shape.size());
  const char *from = "@INPUT@", *to = "@OUTPUT@";
  auto outputs = session.Run(Ort::RunOptions{nullptr}, &from, &input, 1, &to, 1);
  const float* found = outputs[0].GetTensorData<float>();
  return std::vector<float>(found, found + @OUTPUT_COUNT@);
}

Ort::Session open(Ort::Env& env) {
  Ort::SessionOptions options;
  options.SetIntraOpNumThreads(1);
  return Ort::Session(env, "@FILE@", options);
}
