// Print the ids that npm's tokenizer returns for a JSON array of texts on standard input: encode.mjs FOLDER

import { readFileSync } from "node:fs";
import { Tokenizer } from "@huggingface/tokenizers";

const json = (name) => JSON.parse(readFileSync(`${process.argv[2]}/${name}`, "utf8"));
const tokenizer = new Tokenizer(json("tokenizer.json"), json("tokenizer_config.json"));
const texts = JSON.parse(readFileSync(0, "utf8"));
console.log(JSON.stringify(texts.map((text) => tokenizer.encode(text, { add_special_tokens: false }).ids)));
