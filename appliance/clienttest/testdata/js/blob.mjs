// Drives a Blob endpoint with Microsoft's SDK and says what is wrong with it.
// node blob.mjs ENDPOINT ACCOUNT KEY SIZE
import assert from "node:assert/strict";
import { createHash, createCipheriv } from "node:crypto";
import { Readable, Writable } from "node:stream";
import { pipeline } from "node:stream/promises";
import {
  AccountSASPermissions, AccountSASResourceTypes, AccountSASServices, BlobSASPermissions, BlobServiceClient,
  ContainerSASPermissions, StorageSharedKeyCredential, generateAccountSASQueryParameters, generateBlobSASQueryParameters,
  SASProtocol,
} from "@azure/storage-blob";

const [endpoint, account, key, sizeText] = process.argv.slice(2);
const size = Number(sizeText);
const credential = new StorageSharedKeyCredential(account, key);
const service = new BlobServiceClient(endpoint, credential);
const container = service.getContainerClient("javascript");

// bytes that follow from nothing but their number, fast
function* content(total) {
  const stream = createCipheriv("aes-128-ctr", Buffer.alloc(16, 1), Buffer.alloc(16));
  const zeros = Buffer.alloc(1 << 20);
  for (let left = total; left > 0; left -= zeros.length) yield stream.update(zeros.subarray(0, Math.min(left, zeros.length)));
}

async function fails(promise, status, code) {
  const err = await promise.then(() => assert.fail(`succeeded, want ${status} ${code}`), (e) => e);
  assert.equal(err.statusCode, status, err.message);
  if (code) assert.equal(err.code ?? err.details?.errorCode, code);
}

async function collect(list) {
  const all = [];
  for await (const item of list) all.push(item);
  return all;
}

const tests = {
  async containers() {
    await container.create({ metadata: { colour: "red" } });
    await fails(container.create(), 409, "ContainerAlreadyExists");
    assert.equal((await container.getProperties()).metadata.colour, "red");
    const found = await collect(service.listContainers({ prefix: "java", includeMetadata: true }));
    assert.deepEqual(found.map((c) => [c.name, c.metadata.colour]), [["javascript", "red"]]);
    assert.equal(await service.getContainerClient("nobody").exists(), false);
  },

  async bigBlobInBlocks() {
    const blob = container.getBlockBlobClient("big/of many blocks");
    const up = createHash("sha256"), down = createHash("sha256");
    const source = Readable.from((function* () { for (const p of content(size)) { up.update(p); yield p; } })(), { objectMode: false });
    await blob.uploadStream(source, 8 << 20, 4, { blobHTTPHeaders: { blobContentType: "application/x-big" } });
    const properties = await blob.getProperties();
    assert.equal(properties.contentLength, size);
    assert.equal(properties.contentType, "application/x-big");
    const answer = await blob.download();
    await pipeline(answer.readableStreamBody, new Writable({ write(p, _, next) { down.update(p); next(); } }));
    assert.equal(down.digest("hex"), up.digest("hex"));
    const blocks = await blob.getBlockList("all");
    assert.equal(blocks.committedBlocks.length, Math.ceil(size / (8 << 20)));
    assert.equal((blocks.uncommittedBlocks ?? []).length, 0);
  },

  async smallBlobs() {
    const blob = container.getBlockBlobClient("small/ünïcode & <tags>?.txt");
    await blob.upload("meow", 4, { metadata: { a: "1" }, blobHTTPHeaders: { blobCacheControl: "no-store" } });
    assert.equal((await blob.downloadToBuffer()).toString(), "meow");
    assert.equal((await blob.downloadToBuffer(1, 2)).toString(), "eo");
    const p = await blob.getProperties();
    assert.deepEqual([p.metadata.a, p.cacheControl, p.blobType, p.contentLength], ["1", "no-store", "BlockBlob", 4]);
    assert.equal(Buffer.from(p.contentMD5).toString("hex"), createHash("md5").update("meow").digest("hex"));
    await blob.setMetadata({ b: "2" });
    await blob.setHTTPHeaders({ blobContentType: "text/plain" });
    const q = await blob.getProperties();
    assert.deepEqual([q.metadata, q.contentType, q.cacheControl], [{ b: "2" }, "text/plain", undefined]);
    const empty = container.getBlockBlobClient("small/empty");
    await empty.upload("", 0);
    assert.equal((await empty.downloadToBuffer()).length, 0);
    await fails(container.getBlobClient("small/nothing").download(), 404, "BlobNotFound");
  },

  async conditions() {
    const blob = container.getBlockBlobClient("conditions");
    const { etag } = await blob.upload("one", 3, { conditions: { ifNoneMatch: "*" } });
    await fails(blob.upload("two", 3, { conditions: { ifNoneMatch: "*" } }), 409, "BlobAlreadyExists");
    await fails(blob.upload("two", 3, { conditions: { ifMatch: '"0x1"' } }), 412, "ConditionNotMet");
    await blob.upload("two", 3, { conditions: { ifMatch: etag } });
    await fails(blob.download(0, undefined, { conditions: { ifMatch: etag } }), 412, "ConditionNotMet");
    await fails(blob.delete({ conditions: { ifMatch: etag } }), 412, "ConditionNotMet");
    const { lastModified } = await blob.getProperties();
    await fails(blob.download(0, undefined, { conditions: { ifModifiedSince: lastModified } }), 304);
    await fails(blob.setMetadata({}, { conditions: { ifUnmodifiedSince: new Date(lastModified.getTime() - 10_000) } }), 412, "ConditionNotMet");
    assert.equal((await blob.downloadToBuffer()).toString(), "two");
  },

  async lists() {
    for (let i = 0; i < 25; i++) await container.getBlockBlobClient(`list/d${i % 5}/f${String(i).padStart(2, "0")}`).upload("x", 1, { metadata: { n: String(i) } });
    const pages = [];
    for await (const page of container.listBlobsFlat({ prefix: "list/", includeMetadata: true }).byPage({ maxPageSize: 10 })) pages.push(page.segment.blobItems);
    assert.deepEqual(pages.map((p) => p.length), [10, 10, 5]);
    assert.equal(pages.flat().find((b) => b.name === "list/d2/f07").metadata.n, "7");
    const names = pages.flat().map((b) => b.name);
    assert.deepEqual(names, [...names].sort());
    const top = await collect(container.listBlobsByHierarchy("/", { prefix: "list/" }));
    assert.deepEqual(top.map((e) => [e.kind, e.name]), [0, 1, 2, 3, 4].map((i) => ["prefix", `list/d${i}/`]));
    const odd = await collect(container.listBlobsFlat({ prefix: "small/ü" }));
    assert.deepEqual(odd.map((b) => b.name), ["small/ünïcode & <tags>?.txt"]);
  },

  async signatures() {
    const expiresOn = new Date(Date.now() + 3600_000), startsOn = new Date(Date.now() - 60_000);
    const sas = (more) => generateBlobSASQueryParameters({ containerName: "javascript", startsOn, expiresOn, protocol: SASProtocol.HttpsAndHttp, ...more }, credential);
    await container.getBlockBlobClient("signed").upload("secret", 6);
    const open = (token, name) => new BlobServiceClient(`${endpoint}?${token}`).getContainerClient("javascript").getBlockBlobClient(name);

    const read = sas({ blobName: "signed", permissions: BlobSASPermissions.parse("r"), contentType: "text/x-signed" });
    assert.equal((await open(read, "signed").downloadToBuffer()).toString(), "secret");
    assert.equal((await open(read, "signed").download()).contentType, "text/x-signed");
    await fails(open(read, "signed").upload("x", 1), 403);
    await fails(open(read, "conditions").downloadToBuffer(), 403);

    const whole = sas({ permissions: ContainerSASPermissions.parse("rwl") });
    await open(whole, "written").upload("by signature", 12);
    assert.equal((await open(whole, "written").downloadToBuffer()).toString(), "by signature");
    await fails(open(whole, "written").delete(), 403);

    const late = sas({ permissions: ContainerSASPermissions.parse("r"), startsOn: new Date(Date.now() - 7200_000), expiresOn: new Date(Date.now() - 3600_000) });
    await fails(open(late, "signed").downloadToBuffer(), 403);
    const bent = String(whole).replace(/sig=.{4}/, "sig=AAAA");
    await fails(open(bent, "signed").downloadToBuffer(), 403, "AuthenticationFailed");

    const ofAccount = generateAccountSASQueryParameters({
      startsOn, expiresOn, protocol: SASProtocol.HttpsAndHttp, permissions: AccountSASPermissions.parse("rl"),
      resourceTypes: AccountSASResourceTypes.parse("sco").toString(), services: AccountSASServices.parse("b").toString(),
    }, credential);
    assert.equal((await open(ofAccount, "signed").downloadToBuffer()).toString(), "secret");
    assert.ok((await collect(new BlobServiceClient(`${endpoint}?${ofAccount}`).listContainers())).length > 0);
    await fails(open(ofAccount, "signed").delete(), 403);
    await fails(new BlobServiceClient(endpoint, new StorageSharedKeyCredential(account, "bm90IHRoZSBrZXk=")).getContainerClient("javascript").getProperties(), 403);
  },

  async deletes() {
    for await (const b of container.listBlobsFlat()) await container.deleteBlob(b.name);
    assert.equal((await collect(container.listBlobsFlat())).length, 0);
    await container.delete();
    await fails(container.getProperties(), 404);
  },
};

for (const [name, test] of Object.entries(tests)) {
  const began = Date.now();
  try {
    await test();
  } catch (err) {
    console.error(`${name} failed: ${err.stack}`);
    process.exit(1);
  }
  console.log(`${name} ${((Date.now() - began) / 1000).toFixed(1)} s`);
}
