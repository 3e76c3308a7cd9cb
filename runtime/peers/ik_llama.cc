// ik_llama.cpp as an engine for `llama3-bench --compare`, with the defaults of its own llama-bench (flash attention is
// on). With a built tree of https://github.com/ikawrakow/ik_llama.cpp at $IK:
//
//   g++ -O2 -shared -fPIC runtime/peers/ik_llama.cc -o libik_llama_peer.so -I$IK/include -I$IK/ggml/include \
//       -L$IK/build/src -L$IK/build/ggml/src -lllama -lggml -Wl,-rpath,$IK/build/src:$IK/build/ggml/src
//
// llama3_runtime/bench/library_peer.py calls these functions. A file like this one can add any other engine.
#include <cstdint>

#include "llama.h"

namespace {

struct Peer {
  llama_model* model;
  llama_context* context;
  llama_batch batch;
  int position = 0;
};

}  // namespace

extern "C" {

const char* peer_name() { return "ik_llama.cpp"; }

// Load a model; return null if that fails. Each call of `peer_forward` has at most `chunk_size` tokens.
void* peer_open(const char* gguf, int threads, int max_length, int chunk_size) {
  llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
  llama_backend_init();
  llama_model_params model_params = llama_model_default_params();
  model_params.n_gpu_layers = 0;
  llama_model* model = llama_model_load_from_file(gguf, model_params);
  if (!model) return nullptr;
  llama_context_params params = llama_context_default_params();
  params.n_ctx = static_cast<uint32_t>(max_length);
  params.n_batch = params.n_ubatch = static_cast<uint32_t>(chunk_size);
  params.n_threads = params.n_threads_batch = static_cast<uint32_t>(threads);
  params.flash_attn = true;
  llama_context* context = llama_init_from_model(model, params);
  if (!context) {
    llama_free_model(model);
    return nullptr;
  }
  return new Peer{model, context, llama_batch_init(chunk_size, 0, 1)};
}

int peer_vocab_size(void* handle) { return llama_n_vocab(static_cast<Peer*>(handle)->model); }

// Append `count` tokens; return the last one's logits, valid until the next call, or null if that fails.
const float* peer_forward(void* handle, const int32_t* ids, int count) {
  Peer& peer = *static_cast<Peer*>(handle);
  peer.batch.n_tokens = count;
  for (int i = 0; i < count; i++) {
    peer.batch.token[i] = ids[i];
    peer.batch.pos[i] = peer.position + i;
    peer.batch.n_seq_id[i] = 1;
    peer.batch.seq_id[i][0] = 0;
    peer.batch.logits[i] = i == count - 1;
  }
  if (llama_decode(peer.context, peer.batch) != 0) return nullptr;
  peer.position += count;
  return llama_get_logits(peer.context);
}

// Forget the tokens at `position` and later.
void peer_rewind(void* handle, int position) {
  Peer& peer = *static_cast<Peer*>(handle);
  llama_kv_cache_seq_rm(peer.context, 0, position, -1);
  peer.position = position;
}

void peer_close(void* handle) {
  Peer* peer = static_cast<Peer*>(handle);
  llama_batch_free(peer->batch);
  llama_free(peer->context);
  llama_free_model(peer->model);
  delete peer;
}
}
