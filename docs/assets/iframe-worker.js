// A browser gives no worker to a page that was opened from a disk: there the search runs in a hidden frame of the page.
// The theme's search code looks for the name IFrameWorker; its own such script would come from a server elsewhere.
if (location.protocol === "file:") {
  const load = (inside, url) =>
    new Promise((loaded, failed) => {
      const script = inside.document.createElement("script");
      Object.assign(script, { src: url, onload: loaded, onerror: failed });
      inside.document.body.append(script);
    });

  window.Worker = window.IFrameWorker = class extends EventTarget {
    constructor(url) {
      super();
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.body.append(this.frame);
      const inside = this.frame.contentWindow;
      // Firefox would replace an empty document, and what is hung onto its window, a moment later.
      inside.document.write("<body></body>");
      inside.document.close();
      inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      inside.importScripts = (...urls) => urls.reduce((before, next) => before.then(() => load(inside, next)), Promise.resolve());
      this.ready = load(inside, url);
    }

    postMessage(data) {
      this.ready.then(() => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })));
    }

    terminate() {
      this.frame.remove();
    }
  };
}
