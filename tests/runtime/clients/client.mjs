// Node's own fetch: keep-alive, a stream read as it comes, a request given up.
const url = process.argv[2] + "/v1/completions";
const post = (body, signal) =>
  fetch(url, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ model: "fake", ...body }), signal });
for (let turn = 0; turn < 3; turn++) {
  const answer = await post({ prompt: "x", max_tokens: 2, stream: true });
  console.log(answer.status, (await answer.text()).split("\n").filter((line) => line.startsWith("data: ")).length);
}
const leaving = new AbortController();
const answer = await post({ prompt: "y", max_tokens: 200, stream: true }, leaving.signal);
setTimeout(() => leaving.abort(), 100);
try {
  for await (const _ of answer.body);
} catch {
  console.log("given up");
}
