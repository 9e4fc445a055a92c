// A Styx client in Node, made of nothing but the .proto files: submits a task, watches it, reads its output.
//
//   npm ci
//   STYX_SERVER_URL=http://127.0.0.1:8080 STYX_TOKEN=... node client.mjs 'for i in 1 2 3; do echo $i; sleep 1; done'
//
// The command's output goes to this program's output, everything else to its errors; its exit code is the command's.

import { randomUUID } from 'node:crypto';
import { fileURLToPath } from 'node:url';
import * as grpc from '@grpc/grpc-js';
import * as protoLoader from '@grpc/proto-loader';

const PROTOS = fileURLToPath(new URL('../../protos', import.meta.url));
const ENDED = new Set(['SUCCEEDED', 'FAILED', 'CANCELLED', 'TIMED_OUT', 'LOST']);

// The server's one address is its HTTP address; where gRPC listens is written there.
async function discover(serverUrl) {
  const response = await fetch(new URL('/.well-known/styx.json', serverUrl));
  if (!response.ok) throw new Error(`${serverUrl} answered ${response.status}; is this a Styx server?`);
  const found = await response.json();
  return { address: found.grpc_address ?? `${new URL(serverUrl).hostname}:${found.grpc_port}`, tls: found.tls };
}

function connect({ address, tls }) {
  // Numbers of 64 bits come as strings, because JavaScript's own numbers lose digits; enums come by name.
  const definition = protoLoader.loadSync('styx/v1/styx_service.proto', {
    includeDirs: [PROTOS],
    longs: String,
    enums: String,
    defaults: true,
    oneofs: true,
  });
  const { StyxService } = grpc.loadPackageDefinition(definition).styx.v1;
  return new StyxService(address, tls ? grpc.credentials.createSsl() : grpc.credentials.createInsecure());
}

function withToken(token) {
  const metadata = new grpc.Metadata();
  metadata.set('authorization', `Bearer ${token}`);
  return metadata;
}

function submit(client, metadata, command) {
  // The request id makes it safe to send the same submit again, should the answer get lost.
  const request = { spec: { command, name: 'from node' }, requestId: randomUUID() };
  const options = { deadline: Date.now() + 10_000 };
  return new Promise((resolve, reject) => {
    client.submitTask(request, metadata, options, (error, answer) => (error ? reject(error) : resolve(answer.taskId)));
  });
}

async function watch(client, metadata, taskId, onChange) {
  const changes = client.watchTasks({ taskIds: [taskId] }, metadata);
  try {
    for await (const { tasks } of changes) {
      for (const task of tasks) {
        onChange(task);
        if (ENDED.has(task.state)) return task;
      }
    }
  } finally {
    // Leaving the loop is not enough: the call would stay open, and this program with it.
    changes.on('error', () => {});
    changes.cancel();
  }
  throw new Error(`the server stopped while ${taskId} was being watched; ask again with the last cursor`);
}

async function copyOutput(client, metadata, taskId) {
  const pieces = client.streamLogs({ taskId, follow: true }, metadata);
  for await (const { stream, data } of pieces) {
    (stream === 'STDERR' ? process.stderr : process.stdout).write(data);
  }
}

async function main([command = 'echo "Hello from Node"']) {
  const client = connect(await discover(process.env.STYX_SERVER_URL ?? 'http://127.0.0.1:8080'));
  const metadata = withToken(process.env.STYX_TOKEN ?? '');
  try {
    const taskId = await submit(client, metadata, command);
    console.error(`submitted ${taskId}`);
    const [task] = await Promise.all([
      watch(client, metadata, taskId, ({ state }) => console.error(`${taskId} is ${state}`)),
      copyOutput(client, metadata, taskId),
    ]);
    return task.state === 'SUCCEEDED' ? 0 : task.exitCode || 1;
  } finally {
    client.close();
  }
}

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  console.error(`error: ${error.details ?? error.cause?.message ?? error.message}`);
  process.exitCode = 125;
}
