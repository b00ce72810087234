// Writes segments.json: texts, and what npm's sms-segments-calculator makes of them.
//
//     npm install --prefix oracle sms-segments-calculator@1.3.0
//     node tests/it/oracles/generate.mjs oracle/node_modules/sms-segments-calculator
//
// Run by hand when a rule changes; the file is committed, so the tests need neither Node nor a network.
// A text is kept as a list of pieces and how often each is repeated, to keep the file small.

import { createRequire } from "node:module";
import { writeFileSync } from "node:fs";
import { resolve } from "node:path";

const require = createRequire(import.meta.url);
const { SegmentedMessage } = require(resolve(process.argv[2]));

const texts = [];
const add = (...pieces) => texts.push(pieces.filter(([, times]) => times > 0));

// Plain lengths around every boundary up to ten segments.
for (const [piece, single, part] of [["a", 160, 153], ["ж", 70, 67]]) {
  add([piece, 1]);
  for (const length of [single - 1, single, single + 1]) add([piece, length]);
  for (let parts = 2; parts <= 10; parts++) {
    for (const delta of [-1, 0, 1]) add([piece, parts * part + delta]);
  }
}
// Escapes: alone, before, on and behind each boundary.
for (const escape of ["€", "{", "\\", "^", "\f"]) {
  for (const count of [1, 79, 80, 81, 152, 153, 154, 228, 229]) add([escape, count]);
}
for (const before of [150, 151, 152, 153, 157, 158, 159, 160, 303, 304, 305, 306, 457, 458, 459]) {
  for (const after of [0, 1, 2, 151, 152, 153]) add(["a", before], ["€", 1], ["b", after]);
}
// Surrogate pairs likewise.
for (const count of [1, 34, 35, 36, 66, 67, 68, 99, 100, 101]) add(["😀", count]);
for (const before of [64, 65, 66, 67, 68, 69, 70, 131, 132, 133, 134, 199, 200, 201]) {
  for (const after of [0, 1, 65, 66, 67]) add(["ж", before], ["😀", 1], ["я", after]);
}
// One foreign character in a text that would fit GSM, extension characters in UCS-2, and words of several languages.
for (const length of [69, 70, 71, 133, 134, 135, 160, 161]) add(["a", length - 1], ["á", 1]);
for (const length of [35, 69, 70, 71]) add(["€", length - 1], ["ő", 1]);
for (const text of [
  "Your appointment is on 5 May at 10:30. Reply YES to confirm or NO to cancel.",
  "Tá do choinne ar an 5 Bealtaine ag 10:30.",
  "Ihr Paket ist da! Größe: 30×40 cm, Gebühr 5,00 €.",
  "Ceny: [5 €] {10 €} ~ 20 |",
  "Ваш код: 1234",
  "ΚΑΛΗΜΕΡΑ ΣΑΣ",
  "Καλημέρα σας",
  "您的验证码是1234",
  "Café, garçon, naïve, Ångström, Ørsted, señor, über",
  "“smart quotes” and – dashes…",
  "Line one\nline two\n\nline four",
  "Tab\there",
  "1 < 2 & 3 > 2 @ $5 £6 ¥7 ¤ § ¿ ¡",
  "`backtick`",
]) {
  for (const times of [1, 2, 3, 5]) add([text, times]);
}
// Characters of several code points: see the test for where the oracle is not followed.
for (const cluster of ["👨‍👩‍👧", "🇮🇪", "e\u0301", "👍🏽"]) {
  for (const before of [0, 58, 60, 62, 64, 66, 68, 70]) add(["ж", before], [cluster, 1], ["я", 4]);
}

const rows = texts.map((pieces) => {
  const text = pieces.map(([piece, times]) => piece.repeat(times)).join("");
  const message = new SegmentedMessage(text);
  const encoding = message.encodingName === "GSM-7" ? "gsm7" : "ucs2";
  return JSON.stringify({ pieces, encoding, segments: message.segmentsCount });
});
writeFileSync(new URL("segments.json", import.meta.url), `[\n${rows.join(",\n")}\n]\n`);
