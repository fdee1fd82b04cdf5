/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Whisper inside a C program: samples go in, text comes out.
 *
 *     ffmpeg -i talk.mp4 -f s16le -ac 1 -ar 16000 - | embed-c [PROPERTY=VALUE...]
 *
 * Mono samples of 16 bits at 16 kHz from standard input; properties are whisperxdna2enc's. SIGINT and SIGTERM end the
 * input early: what was read becomes text. Needs whisperxdna2enc with its model;
 * cc embed-c.c $(pkg-config --cflags --libs gstreamer-app-1.0)
 */
#define _GNU_SOURCE /* ppoll */
#include <gst/app/gstappsrc.h>
#include <gst/gst.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

static void interrupt(int signal_number) { (void)signal_number; }

/* Pushes standard input until it ends or a signal comes. Runs on a thread of its own, since appsrc blocks it while
 * recognition is behind; the pipeline's state change to NULL releases it. */
static gpointer feed(gpointer source) {
  guint64 samples = 0;
  gboolean ended = FALSE;
  while (!ended) {
    GstBuffer *buffer = gst_buffer_new_allocate(NULL, 32000, NULL);
    GstMapInfo map;
    gsize got = 0;
    gst_buffer_map(buffer, &map, GST_MAP_WRITE);
    while (got < map.size && !ended) {
      /* Signals are blocked everywhere but in here. */
      struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
      sigset_t none;
      sigemptyset(&none);
      const gssize n = ppoll(&input, 1, NULL, &none) < 0 ? 0 : read(STDIN_FILENO, map.data + got, map.size - got);
      if (n <= 0) ended = TRUE;
      else got += n;
    }
    gst_buffer_unmap(buffer, &map);
    got -= got % 2;
    gst_buffer_set_size(buffer, got);
    GST_BUFFER_PTS(buffer) = gst_util_uint64_scale(samples, GST_SECOND, 16000);
    samples += got / 2;
    /* Takes the buffer. Fails only when the pipeline has failed or stops, which the bus knows. */
    if (gst_app_src_push_buffer(source, buffer) != GST_FLOW_OK) break;
  }
  gst_app_src_end_of_stream(source);
  return NULL;
}

static void print_text(const GstStructure *fields) {
  guint64 time = 0, duration = 0;
  double confidence = 0;
  gst_structure_get(fields, "stream-time", G_TYPE_UINT64, &time, "duration", G_TYPE_UINT64, &duration, "confidence",
                    G_TYPE_DOUBLE, &confidence, NULL);
  g_print("%7.2f - %.2f  %s  (%.0f %%)\n", (double)time / GST_SECOND, (double)(time + duration) / GST_SECOND,
          gst_structure_get_string(fields, "text"), 100 * confidence);
}

static void print_stats(GstElement *recognizer) {
  GstStructure *stats = NULL;
  guint64 windows = 0;
  double encoding = 0, decoding = 0;
  g_object_get(recognizer, "stats", &stats, NULL);
  gst_structure_get(stats, "windows", G_TYPE_UINT64, &windows, "encode-ms", G_TYPE_DOUBLE, &encoding, "decode-ms",
                    G_TYPE_DOUBLE, &decoding, NULL);
  g_printerr("%" G_GUINT64_FORMAT " windows on %s, %s: %.0f ms encoding, %.0f ms decoding\n", windows,
             gst_structure_get_string(stats, "device"), gst_structure_get_string(stats, "precision"), encoding,
             decoding);
  gst_structure_free(stats);
}

int main(int argc, char **argv) {
  gst_init(&argc, &argv);
  GError *error = NULL;
  GstElement *pipeline = gst_parse_launch(
      "appsrc name=in format=time block=true max-bytes=320000 "
      "caps=audio/x-raw,format=S16LE,rate=16000,channels=1,layout=interleaved ! "
      "whisperxdna2enc name=recognizer ! text/x-raw,format=utf8 ! fakesink sync=false",
      &error);
  if (error) {
    g_printerr("embed-c: %s\n", error->message);
    g_clear_error(&error);
    gst_clear_object(&pipeline);
    return 1;
  }
  GstElement *source = gst_bin_get_by_name(GST_BIN(pipeline), "in");
  GstElement *recognizer = gst_bin_get_by_name(GST_BIN(pipeline), "recognizer");
  for (int i = 1; i < argc; ++i) {
    char *value = strchr(argv[i], '=');
    if (!value) continue;
    *value = '\0';
    gst_util_set_object_arg(G_OBJECT(recognizer), argv[i], value + 1);
  }

  struct sigaction action = {.sa_handler = interrupt};
  sigaction(SIGINT, &action, NULL);
  sigaction(SIGTERM, &action, NULL);
  sigset_t ends;
  sigemptyset(&ends);
  sigaddset(&ends, SIGINT);
  sigaddset(&ends, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &ends, NULL); /* for the threads to come as well */
  gst_element_set_state(pipeline, GST_STATE_PLAYING);
  GThread *feeder = g_thread_new("feed", feed, source);

  GstBus *bus = gst_element_get_bus(pipeline);
  int status = -1;
  while (status < 0) {
    GstMessage *message = gst_bus_timed_pop(bus, GST_CLOCK_TIME_NONE);
    switch (GST_MESSAGE_TYPE(message)) {
      case GST_MESSAGE_ELEMENT:
        if (gst_message_has_name(message, "whisperxdna2enc/segment")) print_text(gst_message_get_structure(message));
        break;
      case GST_MESSAGE_WARNING:
        gst_message_parse_warning(message, &error, NULL);
        g_printerr("embed-c: %s\n", error->message);
        g_clear_error(&error);
        break;
      case GST_MESSAGE_ERROR:
        gst_message_parse_error(message, &error, NULL);
        g_printerr("embed-c: %s\n", error->message);
        g_clear_error(&error);
        status = 1;
        break;
      case GST_MESSAGE_EOS:
        print_stats(recognizer);
        status = 0;
        break;
      default:
        break;
    }
    gst_message_unref(message);
  }

  gst_element_set_state(pipeline, GST_STATE_NULL);
  kill(getpid(), SIGTERM); /* after an error the feeder may wait for input */
  g_thread_join(feeder);
  gst_object_unref(bus);
  gst_object_unref(recognizer);
  gst_object_unref(source);
  gst_object_unref(pipeline);
  return status;
}
