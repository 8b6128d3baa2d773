// Bugs that are planted on purpose, to prove that the tests find them (tests/sim/mutants). Each
// breaks one rule whose breach would lose, tear or resurrect data.
//
//   if (MUTANT(skip_the_fence)) co_return true;
//
// MUTANT is the constant false unless the build option `mutants` is set; then the environment
// variable ZEROFS_MUTANT names the one that is active, so that one build holds them all.
#pragma once

namespace zerofs {

// clang-format off
#define ZEROFS_MUTANTS(X)                                                                         \
  /* group commit (DESIGN section 5) */                                                           \
  X(ack_before_durable)        /* a flush ends when its batch is sealed, not when it is stored */ \
  X(ack_out_of_prefix)         /* … when its own object is stored, whatever lies before it */     \
  X(flush_misses_open_batch)   /* a flush waits for sealed batches only */                        \
  X(failed_put_is_success)     /* 409, 503 and time-outs count as stored */                       \
  X(believe_412)               /* "exists" counts as our own lost reply without a look */         \
  X(fear_412)                  /* "exists" counts as a fence without a look */                    \
  X(reseal_on_retry)           /* a retry sends newly sealed bytes under the same number */       \
  X(uploads_unbounded)         /* uploads leave the window of W numbers */                        \
  X(dirty_limit_ignored)       /* writers never wait */                                           \
  X(torn_transaction)          /* a batch boundary falls inside a transaction */                  \
  X(seal_drops_last_page)      /* the last page of a frame is not in the layer */                 \
  X(erases_after_entries)      /* a batch's layer overlays first, then erases */                  \
  X(object_ids_without_term)   /* an object id comes again after a restart */                     \
  /* fencing and recovery (section 6) */                                                          \
  X(skip_the_fence)            /* a missing slot is the end of the log */                         \
  X(delete_the_fence)          /* the fence is removed once the term is sealed */                 \
  X(believe_412_of_fence)      /* whatever occupies the slot is taken for a fence */              \
  X(skip_second_manifest_check) /* nobody looks who is the writer after fencing */                \
  X(commit_ignores_newer_term) /* a fenced writer goes on committing manifests */                 \
  X(take_term_unchecked)       /* the term number is not validated on the version it enters */    \
  X(owner_unchecked)           /* a database whose owner may live is simply taken */              \
  X(replay_one_too_few)        /* the last log object is not replayed */                          \
  X(replay_past_the_fence)     /* an orphan above the fence is replayed */                        \
  X(replay_terms_backwards)    /* the newest of several terms is replayed first */                \
  /* memtable and tables (sections 5, 7) */                                                       \
  X(replay_point_too_far)      /* the replay point passes what the tables hold */                 \
  X(flush_ahead_of_prefix)     /* sealed, not yet durable batches enter a table */                \
  X(drop_frozen_before_commit) /* layers vanish before the manifest names their tables */         \
  X(table_number_reused)       /* every memtable flush starts at the same number */               \
  X(fold_in_wrong_order)       /* the older layer wins */                                         \
  X(fold_loses_erases)         /* a fold keeps the newer erased ranges only */                    \
  X(erase_falls_through)       /* an erased range does not end the lookup */                      \
  X(tables_oldest_first)       /* an older table shadows a newer one */                           \
  /* compaction (section 7) */                                                                    \
  X(merge_oldest_wins)         /* merged tables: what the oldest input says stays */              \
  X(merge_ignores_erases)      /* … erased ranges of newer inputs hide nothing of older ones */   \
  X(merge_drops_erases_early)  /* … they are dropped although older tables lie below */           \
  X(remove_before_commit)      /* inputs go before the manifest names the outputs */              \
  /* cache and read path (section 9) */                                                           \
  X(fill_although_overtaken)   /* a fetched page replaces what a write or discard made of it */   \
  X(clean_by_older_batch)      /* an older batch's durability cleans a newer page */              \
  X(evict_dirty)               /* a page that nothing else holds is evicted */                    \
  X(write_shared_in_place)     /* a page that a seal or a reply refers to is written */           \
  X(partial_write_onto_zeroes) /* the rest of a page written in part is not fetched */            \
  X(erase_keeps_open_pages)    /* an erase leaves what the open batch holds under it */           \
  X(erases_in_batches_ignored) /* a lookup goes past the erases of batches not yet durable */     \
  X(old_erases_forgotten)      /* a node that missed too many erases keeps everything */          \
  X(meta_skips_sealed)         /* get_meta looks past sealed batches */                           \
  /* sealing (section 13) */                                                                      \
  X(ignore_tag)                /* what fails authentication is served */                          \
  X(ordinal_repeats)           /* every piece of an object has the same nonce */                  \
  X(no_name_in_aad)            /* the object's name is not authenticated */
// clang-format on

enum class Mutant {
  none,
#define ZEROFS_MUTANT_ENUM(name) name,
  ZEROFS_MUTANTS(ZEROFS_MUTANT_ENUM)
#undef ZEROFS_MUTANT_ENUM
};

#ifdef ZEROFS_WITH_MUTANTS
bool is_active(Mutant mutant);
#else
constexpr bool is_active(Mutant) {
  return false;
}
#endif

#define MUTANT(name) (::zerofs::is_active(::zerofs::Mutant::name))

}  // namespace zerofs
