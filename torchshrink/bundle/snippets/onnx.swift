// @FILE@ on iOS: pod "onnxruntime-objc", the file in the app's bundle.
// Input "@INPUT@" float32 @INPUT_SHAPE@, output "@OUTPUT@" float32 @OUTPUT_SHAPE@, channels first.
import Foundation
import onnxruntime_objc

final class Model {
  private let session: ORTSession
  private let mean: [Float] = [@MEAN@]
  private let std: [Float] = [@STD@]  // of @RAW@

  init(path: String) throws {
    let environment = try ORTEnv(loggingLevel: .warning)
    session = try ORTSession(env: environment, modelPath: path, sessionOptions: ORTSessionOptions())
  }

  /// `raw` holds @INPUT_COUNT@ values, channels first; the result @OUTPUT_COUNT@.
  func run(_ raw: [Float]) throws -> [Float] {
    let plane = raw.count / @CHANNELS@
    var values = raw.enumerated().map { i, it in (it - mean[i / plane]) / std[i / plane] }
    let data = NSMutableData(bytes: &values, length: values.count * 4)
    let input = try ORTValue(tensorData: data, elementType: .float, shape: [@INPUT_SIDES@])
    let found = try session.run(withInputs: ["@INPUT@": input], outputNames: ["@OUTPUT@"], runOptions: nil)
    let output = try found["@OUTPUT@"]!.tensorData() as Data
    return output.withUnsafeBytes { Array($0.bindMemory(to: Float.self)) }
  }
}
