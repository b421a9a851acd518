// @FILE@ on iOS: pod "TensorFlowLiteSwift", the file in the app's bundle.
// Input "@INPUT@" @INPUT_TYPE@ @INPUT_SHAPE@, output "@OUTPUT@" @OUTPUT_TYPE@ @OUTPUT_SHAPE@, channels last.
import Foundation
import TensorFlowLite

final class Model {
  private let interpreter: Interpreter
  private let mean: [Float] = [@MEAN@]
  private let std: [Float] = [@STD@]  // of @RAW@

  init(path: String) throws {
    var options = Interpreter.Options()
    options.threadCount = 1
    interpreter = try Interpreter(modelPath: path, options: options)
    try interpreter.allocateTensors()
  }

  /// `raw` holds @INPUT_COUNT@ values, channels last; the result @OUTPUT_COUNT@.
  func run(_ raw: [Float]) throws -> [Float] {
    let input: [@INPUT_SWIFT@] = raw.enumerated().map { i, it in
      let value = (it - mean[i % @CHANNELS@]) / std[i % @CHANNELS@]
      return @ENCODE_SWIFT@
    }
    try interpreter.copy(input.withUnsafeBytes { Data($0) }, toInputAt: 0)
    try interpreter.invoke()
    let data = try interpreter.output(at: 0).data
    return data.withUnsafeBytes { Array($0.bindMemory(to: @OUTPUT_SWIFT@.self)) }.map { @DECODE_SWIFT@ }
  }
}
