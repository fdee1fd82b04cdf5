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

/* --- Loading ------------------------------------------------------------- */

static void
gst_whisper_xdna2_enc_post_progress (GstWhisperXdna2Enc * self,
    GstProgressType type, const gchar * text)
{
  gst_element_post_message (GST_ELEMENT (self),
      gst_message_new_progress (GST_OBJECT (self), type, "load", text));
}

/* An engine that does not know the language goes on with the one it has. */
void
gst_whisper_xdna2_enc_apply_language (GstWhisperXdna2Enc * self,
    Engine * engine)
{
  try {
    engine->set_language (gst_whisper_xdna2_enc_settings (self).engine.language);
  } catch (const std::exception & e) {
    GST_ELEMENT_WARNING (self, LIBRARY, SETTINGS, ("%s", e.what ()),
        (nullptr));
  }
}

/* In a thread of its own. A canceled load ends when the engine lets it, which
 * nobody waits for; what it made is not used. */
static void
gst_whisper_xdna2_enc_load (GstWhisperXdna2Enc * self,
    const EngineOptions & options, std::shared_ptr<Engine> previous,
    std::shared_ptr<std::atomic<bool>> cancel)
{
  Private *priv = self->priv;
  std::shared_ptr<Engine> engine;
  std::exception_ptr failure;

  gst_whisper_xdna2_enc_post_progress (self, GST_PROGRESS_TYPE_START,
      "Loading the model");
  try {
    engine = std::make_shared<Engine> (options,
        [self] (const std::string & what, double fraction) {
          gchar *text = g_strdup_printf ("%s: %d %%", what.c_str (),
              static_cast<gint> (fraction * 100));
          gst_whisper_xdna2_enc_post_progress (self,
              GST_PROGRESS_TYPE_CONTINUE, text);
          g_free (text);
        }, cancel.get ());
  } catch (...) {
    failure = std::current_exception ();
  }
  previous.reset ();

  gboolean current;
  {
    Lock lock (priv->lock);
    current = priv->cancel_load == cancel;
    if (current) {
      priv->cancel_load.reset ();
      priv->load_state = engine ? Private::READY : Private::FAILED;
      priv->engine = engine;
      if (engine)
        engine->set_flushing (priv->flow == GST_FLOW_FLUSHING);
      priv->wake.notify_all ();
    }
  }

  if (!current) {
    gst_whisper_xdna2_enc_post_progress (self, GST_PROGRESS_TYPE_CANCELED,
        "Loading was canceled");
    return;
  }
  if (failure) {
    gst_whisper_xdna2_enc_post_progress (self, GST_PROGRESS_TYPE_ERROR,
        "Loading failed");
    try {
      std::rethrow_exception (failure);
    } catch (const std::exception & e) {
      gst_whisper_xdna2_enc_post_error (self, e);
    }
    return;
  }
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

/* But for the language, which an engine can change. */
static gboolean
is_same_engine (const EngineOptions & a, const EngineOptions & b)
{
  return a.model_path == b.model_path && a.backend == b.backend &&
      a.precision == b.precision && a.threads == b.threads &&
      a.output == b.output && a.translate == b.translate &&
      a.audio_context == b.audio_context;
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
