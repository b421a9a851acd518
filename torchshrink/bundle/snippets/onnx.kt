// @FILE@ on Android: implementation("com.microsoft.onnxruntime:onnxruntime-android:1.+"), the file in assets.
// Input "@INPUT@" float32 @INPUT_SHAPE@, output "@OUTPUT@" float32 @OUTPUT_SHAPE@, channels first.
import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import java.nio.FloatBuffer

class Model(file: ByteArray) {
    private val environment = OrtEnvironment.getEnvironment()
    private val session = environment.createSession(file)
    private val mean = floatArrayOf(@MEAN_F@)
    private val std = floatArrayOf(@STD_F@) // of @RAW@

    /** [raw] holds @INPUT_COUNT@ values, channels first; the result @OUTPUT_COUNT@. */
    fun run(raw: FloatArray): FloatArray {
        val plane = raw.size / @CHANNELS@
        val input = FloatArray(raw.size) { (raw[it] - mean[it / plane]) / std[it / plane] }
        OnnxTensor.createTensor(environment, FloatBuffer.wrap(input), longArrayOf(@INPUT_SIDES@)).use { tensor ->
            session.run(mapOf("@INPUT@" to tensor)).use { found ->
                val output = FloatArray(@OUTPUT_COUNT@)
                (found["@OUTPUT@"].get() as OnnxTensor).floatBuffer.get(output)
                return output
            }
        }
    }
}
