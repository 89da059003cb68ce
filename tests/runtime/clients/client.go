// Go's own client: keep-alive, a stream read as it comes, a request given up.
package main

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"
)

func main() {
	post := func(ctx context.Context, body string) *http.Response {
		request, _ := http.NewRequestWithContext(ctx, "POST", os.Args[1]+"/v1/completions", strings.NewReader(body))
		request.Header.Set("Content-Type", "application/json")
		answer, err := http.DefaultClient.Do(request)
		if err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
		return answer
	}
	for range 3 {
		answer := post(context.Background(), `{"model":"fake","prompt":"x","max_tokens":2,"stream":true}`)
		events := 0
		for lines := bufio.NewScanner(answer.Body); lines.Scan(); {
			if strings.HasPrefix(lines.Text(), "data: ") {
				events++
			}
		}
		answer.Body.Close()
		fmt.Println(answer.StatusCode, events)
	}
	ctx, cancel := context.WithCancel(context.Background())
	answer := post(ctx, `{"model":"fake","prompt":"y","max_tokens":200,"stream":true}`)
	time.AfterFunc(100*time.Millisecond, cancel)
	for lines := bufio.NewScanner(answer.Body); lines.Scan(); {
	}
	fmt.Println("given up")
}
