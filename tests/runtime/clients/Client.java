// Java's own client, which offers HTTP/2 with every request unless it is told not to.
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;

class Client {
  public static void main(String[] arguments) throws Exception {
    var client = HttpClient.newHttpClient();
    for (int turn = 0; turn < 3; turn++) {
      var body = "{\"model\":\"fake\",\"prompt\":\"x\",\"max_tokens\":2,\"stream\":true}";
      var request = HttpRequest.newBuilder(URI.create(arguments[0] + "/v1/completions")).header("Content-Type", "application/json")
          .POST(HttpRequest.BodyPublishers.ofString(body)).build();
      var answer = client.send(request, HttpResponse.BodyHandlers.ofString());
      System.out.println(answer.statusCode() + " " + answer.body().lines().filter(line -> line.startsWith("data: ")).count());
    }
    System.out.println("given up");
  }
}
