// Reads the first COUNT records of a topic with Kafka's own client and prints each as its key, a tab, and its value.
//
// java -cp 'lib/*' Consume.java PORT TOPIC COUNT

import java.time.Duration;
import java.util.List;
import java.util.Properties;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.StringDeserializer;

public class Consume {
    public static void main(String[] arguments) {
        var settings = new Properties();
        settings.put("bootstrap.servers", "127.0.0.1:" + arguments[0]);
        settings.put("check.crcs", "true");
        var partition = List.of(new TopicPartition(arguments[1], 0));
        int left = Integer.parseInt(arguments[2]);
        try (var consumer = new KafkaConsumer<>(settings, new StringDeserializer(), new StringDeserializer())) {
            consumer.assign(partition);
            consumer.seekToBeginning(partition);
            while (left > 0) {
                for (var record : consumer.poll(Duration.ofSeconds(1))) {
                    System.out.println(record.key() + "\t" + record.value());
                    left--;
                }
            }
        }
    }
}
