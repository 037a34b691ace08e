// Does what it is told, a line of JSON each, with the SDK for JavaScript: see clients.py.
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const sdk = createRequire(import.meta.url)(process.env.SDK);
const client = new sdk.SQSClient({
  endpoint: process.env.SQS_URL, region: "eu-west-1", maxAttempts: 1,
  credentials: { accessKeyId: "key", secretAccessKey: "secret" },
});

for await (const line of createInterface({ input: process.stdin })) {
  const { action, members } = JSON.parse(line);
  let answer;
  try {
    answer = await client.send(new sdk[`${action}Command`](members));
  } catch (error) {
    if (!error.$response) throw error; // not what the server said
    answer = { code: error.name };
  }
  console.log(JSON.stringify(answer));
}
