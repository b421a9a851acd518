// @FILE@ on Android: implementation("com.google.ai.edge.litert:litert:1.+"), the file in assets.
// Input "@INPUT@" @INPUT_TYPE@ @INPUT_SHAPE@, output "@OUTPUT@" @OUTPUT_TYPE@ @OUTPUT_SHAPE@, channels last.
import java.nio.ByteBuffer
import java.nio.ByteOrder
import kotlin.math.roundToInt
import org.tensorflow.lite.Interpreter

class Model(file: ByteBuffer) {
    private val interpreter = Interpreter(file, Interpreter.Options().setNumThreads(1))
    private val mean = floatArrayOf(@MEAN_F@)
    private val std = floatArrayOf(@STD_F@) // of @RAW@

    /** [raw] holds @INPUT_COUNT@ values, channels last; the result @OUTPUT_COUNT@. */
    fun run(raw: FloatArray): FloatArray {
        val input = ByteBuffer.allocateDirect(@INPUT_COUNT@ * @INPUT_BYTES@).order(ByteOrder.nativeOrder())
        raw.forEachIndexed { i, it ->
            val value = (it - mean[i % @CHANNELS@]) / std[i % @CHANNELS@]
            @ENCODE_KT@
        }
        val output = ByteBuffer.allocateDirect(@OUTPUT_COUNT@ * @OUTPUT_BYTES@).order(ByteOrder.nativeOrder())
        interpreter.run(input.rewind(), output)
        output.rewind()
        return FloatArray(@OUTPUT_COUNT@) { @DECODE_KT@ }
    }
}
