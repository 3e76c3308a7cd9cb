// Call a function of pages/transformers.js in Node: run_transformers.mjs FUNCTION FOLDER < JOB

import { readFileSync } from "node:fs";
import * as transformers from "@huggingface/transformers";
import * as functions from "./pages/transformers.js";

const [name, folder] = process.argv.slice(2);
Object.assign(transformers.env, { allowRemoteModels: false, localModelPath: folder });
console.log(JSON.stringify(await functions[name](transformers, JSON.parse(readFileSync(0, "utf8")))));
