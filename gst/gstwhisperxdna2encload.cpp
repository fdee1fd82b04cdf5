/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include "gst/gstwhisperxdna2encprivate.h"

#include <utility>

void
gst_whisper_xdna2_enc_post_error (GstWhisperXdna2Enc * self,
    const std::exception & exception)
{
  GQuark domain = GST_LIBRARY_ERROR;
  gint code = GST_LIBRARY_ERROR_FAILED;
  const gchar *kind = "unexpected exception";

  if (auto *error = dynamic_cast<const Error *> (&exception)) {
    switch (error->code ()) {
      case ErrorCode::kNotFound:
        domain = GST_RESOURCE_ERROR;
        code = GST_RESOURCE_ERROR_NOT_FOUND;
        kind = "not found";
        break;
      case ErrorCode::kInvalidFile:
        domain = GST_RESOURCE_ERROR;
        code = GST_RESOURCE_ERROR_READ;
        kind = "invalid file";
        break;
      case ErrorCode::kUnsupported:
        domain = GST_RESOURCE_ERROR;
        code = GST_RESOURCE_ERROR_SETTINGS;
        kind = "unsupported";
        break;
      case ErrorCode::kNoResource:
        domain = GST_RESOURCE_ERROR;
        code = GST_RESOURCE_ERROR_NO_SPACE_LEFT;
        kind = "no resource";
        break;
      case ErrorCode::kDevice:
        domain = GST_RESOURCE_ERROR;
        code = GST_RESOURCE_ERROR_FAILED;
        kind = "device failure";
        break;
      case ErrorCode::kInvalidUse:
        code = GST_LIBRARY_ERROR_SETTINGS;
        kind = "invalid use";
        break;
      case ErrorCode::kInterrupted:
        kind = "interrupted";
        break;
    }
  } else if (dynamic_cast<const std::bad_alloc *> (&exception)) {
    domain = GST_RESOURCE_ERROR;
    code = GST_RESOURCE_ERROR_NO_SPACE_LEFT;
    kind = "out of memory";
  }

  Settings settings = gst_whisper_xdna2_enc_settings (self);
  gst_element_message_full (GST_ELEMENT (self), GST_MESSAGE_ERROR, domain,
      code, g_strdup (exception.what ()),
      g_strdup_printf ("%s; model-path=%s", kind,
          settings.engine.model_path.empty () ? "(default)" :
          settings.engine.model_path.c_str ()), __FILE__, GST_FUNCTION, __LINE__);
}

/* --- Context ------------------------------------------------------------- */

/* Keeps an engine that its element may have given up, and with it the model in
 * memory and the device open. Other elements find both in the process-wide
 * caches below their own engines. */
struct Resources
{
  std::shared_ptr<Engine> engine;
};

static GType
gst_whisper_xdna2_resources_get_type (void)
{
  static const GType type =
      g_boxed_type_register_static ("GstWhisperXdna2Resources",
      [](gpointer resources) -> gpointer {
        return new Resources (*static_cast<Resources *> (resources));
      },
      [](gpointer resources) { delete static_cast<Resources *> (resources); });
  return type;
}

static GstContext *
gst_whisper_xdna2_enc_new_context (const EngineOptions & options,
    std::shared_ptr<Engine> engine)
{
  /* Elements drop it in NULL. */
  GstContext *context = gst_context_new (DEVICE_CONTEXT, FALSE);
  whisperxdna2::EncoderInfo info = engine->encoder_info ();
  Resources resources { std::move (engine) };
  gst_structure_set (gst_context_writable_structure (context),
      "model-path", G_TYPE_STRING, options.model_path.c_str (),
      "backend", G_TYPE_STRING, info.backend.c_str (),
      "device", G_TYPE_STRING, info.device.c_str (),
      "firmware", G_TYPE_STRING, info.firmware.c_str (),
      "resources", gst_whisper_xdna2_resources_get_type (), &resources,
      nullptr);
  return context;
}

/* Whether they keep the same model and device. */
static gboolean
is_same_context (GstContext * a, GstContext * b)
{
  for (const gchar * field : { "model-path", "backend", "device" }) {
    if (g_strcmp0 (gst_structure_get_string (gst_context_get_structure (a),
                field), gst_structure_get_string (gst_context_get_structure (b),
                field)) != 0)
      return FALSE;
  }
  return TRUE;
}

static gboolean
gst_whisper_xdna2_enc_ask_neighbor (GstWhisperXdna2Enc * self, GstPad * pad)
{
  GstQuery *query = gst_query_new_context (DEVICE_CONTEXT);
  GstContext *context = nullptr;
  if (gst_pad_peer_query (pad, query)) {
    gst_query_parse_context (query, &context);
    if (context)
      gst_element_set_context (GST_ELEMENT (self), context);
  }
  gboolean found = context != nullptr;
  gst_query_unref (query);
  return found;
}

/* Asks neighbors, then the application and the bins, for what they keep. */
static void
gst_whisper_xdna2_enc_ask_for_context (GstWhisperXdna2Enc * self)
{
  GstContext *context = gst_element_get_context (GST_ELEMENT (self),
      DEVICE_CONTEXT);
  if (context)
    gst_context_unref (context);
  else if (!gst_whisper_xdna2_enc_ask_neighbor (self, self->srcpad) &&
      !gst_whisper_xdna2_enc_ask_neighbor (self, self->sinkpad))
    gst_element_post_message (GST_ELEMENT (self),
        gst_message_new_need_context (GST_OBJECT (self), DEVICE_CONTEXT));
}

gboolean
gst_whisper_xdna2_enc_answer_context (GstWhisperXdna2Enc * self,
    GstQuery * query)
{
  const gchar *type;
  gst_query_parse_context_type (query, &type);
  GstContext *context = g_str_equal (type, DEVICE_CONTEXT) ?
      gst_element_get_context (GST_ELEMENT (self), type) : nullptr;
  if (!context)
    return FALSE;
  gst_query_set_context (query, context);
  gst_context_unref (context);
  return TRUE;
}

/* --- Loading ------------------------------------------------------------- */

static void
gst_whisper_xdna2_enc_post_progress (GstWhisperXdna2Enc * self,
    GstProgressType type, const gchar * text)
{
  gst_element_post_message (GST_ELEMENT (self),
      gst_message_new_progress (GST_OBJECT (self), type, "load", text));
}

/* What may change while text is made. An engine that does not know the
 * language goes on with the one it has. */
void
gst_whisper_xdna2_enc_apply_language (GstWhisperXdna2Enc * self,
    Engine * engine)
{
  EngineOptions options = gst_whisper_xdna2_enc_settings (self).engine;
  engine->set_prompt (options.initial_prompt, options.hotwords);
  try {
    engine->set_language (options.language);
  } catch (const std::exception & e) {
    GST_ELEMENT_WARNING (self, LIBRARY, SETTINGS, ("%s", e.what ()),
        (nullptr));
  }
}

/* In a thread of its own. A canceled load ends when the engine lets it, which
 * only NULL waits for; what it made is not used. */
static void
gst_whisper_xdna2_enc_load (GstWhisperXdna2Enc * self,
    const EngineOptions & options, std::shared_ptr<Engine> previous,
    std::shared_ptr<std::atomic<bool>> cancel)
{
  Private *priv = self->priv;
  std::shared_ptr<Engine> engine;
  std::exception_ptr failure;
  gint percent = -1;

  gst_whisper_xdna2_enc_post_progress (self, GST_PROGRESS_TYPE_START,
      "Loading the model");
  try {
    engine = std::make_shared<Engine> (options,
        [self, &percent] (const std::string & what, double fraction) {
          if (percent == static_cast<gint> (fraction * 100))
            return;
          percent = static_cast<gint> (fraction * 100);
          gchar *text = g_strdup_printf ("%s: %d %%", what.c_str (), percent);
          gst_whisper_xdna2_enc_post_progress (self,
              GST_PROGRESS_TYPE_CONTINUE, text);
          g_free (text);
        }, cancel.get ());
  } catch (...) {
    failure = std::current_exception ();
  }
  previous.reset ();

  GstContext *context = nullptr;
  GstContext *given = gst_element_get_context (GST_ELEMENT (self),
      DEVICE_CONTEXT);
  if (engine)
    context = gst_whisper_xdna2_enc_new_context (options, engine);
  gboolean announce = context && !(given && is_same_context (context, given));

  /* First, so that upstream's error, which says less, comes second. */
  if (failure && !*cancel) {
    gst_whisper_xdna2_enc_post_progress (self, GST_PROGRESS_TYPE_ERROR,
        "Loading failed");
    try {
      std::rethrow_exception (failure);
    } catch (const std::exception & e) {
      gst_whisper_xdna2_enc_post_error (self, e);
    }
  }

  gboolean current;
  {
    Lock lock (priv->lock);
    current = priv->cancel_load == cancel;
    if (current) {
      priv->cancel_load.reset ();
      priv->load_state = engine ? Private::READY : Private::FAILED;
      priv->engine = engine;
      priv->fault.clear ();
      priv->fallbacks = 0;
      if (engine)
        engine->set_flushing (priv->flow == GST_FLOW_FLUSHING);
      /* Not after NULL, where they are dropped. `given` keeps what this
       * replaces until the lock is released. */
      if (announce)
        gst_element_set_context (GST_ELEMENT (self), context);
      priv->wake.notify_all ();
    }
  }

  if (given)
    gst_context_unref (given);
  if (announce && current)
    gst_element_post_message (GST_ELEMENT (self),
        gst_message_new_have_context (GST_OBJECT (self),
            gst_context_ref (context)));
  if (context)
    gst_context_unref (context);

  if (!current) {
    gst_whisper_xdna2_enc_post_progress (self, GST_PROGRESS_TYPE_CANCELED,
        "Loading was canceled");
    return;
  }
  if (failure)
    return;
  for (const std::string & notice : engine->notices ())
    GST_ELEMENT_INFO (self, RESOURCE, SETTINGS, ("%s", notice.c_str ()),
        ("%s", notice.c_str ()));       /* gst-launch-1.0 shows this one */
  /* It may have been changed meanwhile. */
  gst_whisper_xdna2_enc_apply_language (self, engine.get ());
  g_object_notify (G_OBJECT (self), "active-backend");
  gst_whisper_xdna2_enc_post_progress (self, GST_PROGRESS_TYPE_COMPLETE,
      "The model is ready");
}

void
gst_whisper_xdna2_enc_cancel_load (GstWhisperXdna2Enc * self)
{
  Private *priv = self->priv;
  Lock lock (priv->lock);
  if (!priv->cancel_load)
    return;
  *priv->cancel_load = true;
  priv->cancel_load.reset ();
  priv->load_state = Private::NO_ENGINE;
}

/* But for the language and the prompt, which an engine can change. */
static gboolean
is_same_engine (const EngineOptions & a, const EngineOptions & b)
{
  return a.model_path == b.model_path && a.backend == b.backend &&
      a.precision == b.precision && a.threads == b.threads &&
      a.output == b.output && a.translate == b.translate &&
      a.beam_size == b.beam_size && a.audio_context == b.audio_context &&
      a.voice.threshold == b.voice.threshold &&
      a.voice.negative_threshold == b.voice.negative_threshold &&
      a.voice.min_speech == b.voice.min_speech &&
      a.voice.min_silence == b.voice.min_silence &&
      a.voice.padding == b.voice.padding;
}

void
gst_whisper_xdna2_enc_start_load (GstWhisperXdna2Enc * self, Output output)
{
  Private *priv = self->priv;
  EngineOptions options = gst_whisper_xdna2_enc_settings (self).engine;
  options.output = output;

  {
    Lock lock (priv->lock);
    if ((priv->load_state == Private::READY ||
            priv->load_state == Private::LOADING) &&
        is_same_engine (priv->options, options))
      return;
  }

  gst_whisper_xdna2_enc_cancel_load (self);
  gst_whisper_xdna2_enc_ask_for_context (self);
  auto cancel = std::make_shared<std::atomic<bool>> (false);
  std::shared_ptr<Engine> previous;
  {
    Lock lock (priv->lock);
    /* Kept until the new one is there: they may share the weights. */
    previous.swap (priv->engine);
    priv->options = options;
    priv->load_state = Private::LOADING;
    priv->cancel_load = cancel;
  }
  gst_object_ref (self);
  priv->loader = std::thread ([self, options, previous = std::move (previous),
          cancel, before = std::move (priv->loader)] () mutable {
        if (before.joinable ())
          before.join ();
        gst_whisper_xdna2_enc_load (self, options, std::move (previous),
            std::move (cancel));
        gst_object_unref (self);
      });
}

std::shared_ptr<Engine> gst_whisper_xdna2_enc_wait_engine (GstWhisperXdna2Enc * self,
    GstFlowReturn * flow)
{
  Private *priv = self->priv;
  Lock lock (priv->lock);
  priv->wake.wait (lock, [priv] {
        return priv->flow != GST_FLOW_OK ||
            priv->load_state == Private::READY ||
            priv->load_state == Private::FAILED;
      });
  *flow = priv->flow;
  if (*flow == GST_FLOW_OK && priv->load_state == Private::FAILED)
    *flow = GST_FLOW_ERROR;
  return *flow == GST_FLOW_OK ? priv->engine : nullptr;
}
